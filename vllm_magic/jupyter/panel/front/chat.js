// The chat with the chosen server. Answers are shown as plain text.

function chatView(send) {
  let name = "";
  let turns = [];
  const transcript = node("div", { class: "vmp-transcript", role: "log", "aria-label": "Chat", tabindex: "0" });
  const input = node("textarea", {
    rows: "2",
    placeholder: "Ask the model (Enter sends, Shift+Enter begins a new line)",
    "aria-label": "What to say",
    onkeydown: (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      submit();
    },
  });
  const sendButton = button("Send", () => (running() ? send("abort", { name }) : submit()), { class: "vmp-button" });
  const newChat = button("New chat", () => send("new_chat", { name }), { class: "vmp-button vmp-small" });
  const closedNote = node("div", { class: "vmp-quiet" });
  const el = node("div", { class: "vmp-chat" }, transcript, closedNote, node("div", { class: "vmp-say" }, input, node("div", { class: "vmp-stack" }, sendButton, newChat)));

  const running = () => turns.length > 0 && !turns[turns.length - 1].over;

  function submit() {
    const text = input.value.trim();
    if (!text || running() || sendButton.disabled) return;
    input.value = "";
    send("prompt", { name, text });
  }

  /** Draws the turns from index `first` on. */
  function draw(first) {
    const atEnd = transcript.scrollHeight - transcript.scrollTop - transcript.clientHeight < 30;
    while (transcript.children.length > turns.length) transcript.lastChild.remove();
    turns.forEach((turn, index) => {
      if (index < first) return;
      if (!transcript.children[index]) transcript.append(turnView());
      transcript.children[index].update(turn);
    });
    setText(sendButton, running() ? "Stop generating" : "Send");
    newChat.hidden = turns.length === 0;
    if (atEnd || first === 0) transcript.scrollTop = transcript.scrollHeight;
  }

  return {
    el,
    opened: () => draw(0),
    receive(message) {
      if (message.name !== name && message.first > 0) return;
      name = message.name;
      turns = [...turns.slice(0, message.first), ...message.turns];
      draw(message.first);
    },
    update({ chosen }) {
      const ready = chosen !== null && chosen.state === "ready";
      if (chosen === null || chosen.name !== name) {
        name = chosen ? chosen.name : "";
        turns = [];
        draw(0);
      }
      input.disabled = !ready;
      sendButton.disabled = !ready;
      setVisible(closedNote, !ready);
      setText(closedNote, ready ? "" : "The chat opens when the server is ready.");
    },
  };
}

function turnView() {
  const prompt = node("div", { class: "vmp-prompt" });
  const reasoning = node("div", { class: "vmp-pre vmp-quiet" });
  const thoughts = node("details", { class: "vmp-fold" }, node("summary", { text: "Thoughts" }), reasoning);
  const answer = node("div", { class: "vmp-pre" });
  const note = node("div", { class: "vmp-quiet" });
  const el = node("div", { class: "vmp-turn" }, prompt, thoughts, answer, note);
  el.update = (turn) => {
    setText(prompt, turn.prompt);
    setText(reasoning, turn.reasoning);
    setVisible(thoughts, turn.reasoning !== "");
    setText(answer, turn.answer || (turn.over ? "" : "…"));
    setText(note, turn.note);
    setAttribute(note, "class", turn.failed ? "vmp-note wrong" : "vmp-quiet");
  };
  return el;
}
