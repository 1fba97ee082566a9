// The chat with the server that is shown. Answers are shown as plain text.

function chatView(send) {
  let name = "";
  let turns = [];
  const talk = node("div", { class: "vmp-talk", role: "log", "aria-label": "Chat", tabindex: "0" });
  const input = node("textarea", {
    rows: "2",
    placeholder: "Ask the model (Enter sends, Shift+Enter begins a new line)",
    "aria-label": "What to say",
    onkeydown: (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      say_it();
    },
  });
  const go = button("Send", () => (running() ? send("abort", { name }) : say_it()), { class: "vmp-button" });
  const anew = button("New chat", () => send("forget", { name }), { class: "vmp-button vmp-small" });
  const why = node("div", { class: "vmp-quiet" });
  const el = node("div", { class: "vmp-chat" }, talk, why, node("div", { class: "vmp-say" }, input, node("div", { class: "vmp-stack" }, go, anew)));

  const running = () => turns.length > 0 && !turns[turns.length - 1].over;

  function say_it() {
    const text = input.value.trim();
    if (!text || running() || go.disabled) return;
    input.value = "";
    send("say", { name, text });
  }

  function draw(from) {
    const down = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 30;
    while (talk.children.length > turns.length) talk.lastChild.remove();
    turns.forEach((turn, index) => {
      if (index < from) return;
      if (!talk.children[index]) talk.append(turnView());
      talk.children[index].update(turn);
    });
    say(go, running() ? "Stop generating" : "Send");
    anew.hidden = turns.length === 0;
    if (down || from === 0) talk.scrollTop = talk.scrollHeight;
  }

  return {
    el,
    opened: () => draw(0),
    take(message) {
      if (message.name !== name && message.at > 0) return;
      name = message.name;
      turns = [...turns.slice(0, message.at), ...message.turns];
      draw(message.at);
    },
    update({ chosen }) {
      const ready = chosen !== null && chosen.state === "ready";
      if (chosen === null || chosen.name !== name) {
        name = chosen ? chosen.name : "";
        turns = [];
        draw(0);
      }
      input.disabled = !ready;
      go.disabled = !ready;
      show(why, !ready);
      say(why, ready ? "" : "The chat opens when the server is ready.");
    },
  };
}

function turnView() {
  const prompt = node("div", { class: "vmp-prompt" });
  const thought = node("div", { class: "vmp-pre vmp-quiet" });
  const thinking = node("details", { class: "vmp-fold" }, node("summary", { text: "Thoughts" }), thought);
  const answer = node("div", { class: "vmp-pre" });
  const note = node("div", { class: "vmp-quiet" });
  const el = node("div", { class: "vmp-turn" }, prompt, thinking, answer, note);
  el.update = (turn) => {
    say(prompt, turn.prompt);
    say(thought, turn.thought);
    show(thinking, turn.thought !== "");
    say(answer, turn.answer || (turn.over ? "" : "…"));
    say(note, turn.note);
    mark(note, "class", turn.failed ? "vmp-note wrong" : "vmp-quiet");
  };
  return el;
}
