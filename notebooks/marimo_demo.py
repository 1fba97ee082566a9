"""A model served from a marimo notebook: ``marimo edit notebooks/marimo_demo.py``, or ``marimo run`` for visitors.

``MODEL=ORG/MODEL`` in the environment chooses the model that stands in the form.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium")


@app.cell
def _():
    import os

    import marimo as mo

    import vllm_magic

    return mo, os, vllm_magic


@app.cell
def _(mo):
    mo.md("""
    # A model on your GPU

    `vllm_magic.start` serves a model with vLLM, and its VRAM comes back however this notebook ends. In the editor the server
    ends with the notebook's kernel; in an app, when the last visitor who uses it has gone.
    """)


@app.cell
def _(mo, os):
    default = os.environ.get("MODEL", "Qwen/Qwen3-0.6B")
    model = mo.ui.text(value=default, label="Model", full_width=True).form(submit_button_label="Start")
    model
    return (model,)


@app.cell
def _(mo, model, vllm_magic):
    mo.stop(not model.value)
    try:
        server = vllm_magic.start(model.value)
        shown = server
    except (
        vllm_magic.VllmMagicError
    ) as error:  # `marimo run` hides errors that the notebook does not show itself
        server = None
        shown = mo.callout(mo.plain_text("\n".join([str(error), *error.details])), kind="danger")
    shown
    return (server,)


@app.cell
def _(mo, server):
    mo.stop(server is None)
    prompt = mo.ui.text_area(label="What to ask", value="Why is the sea salty?", full_width=True).form(
        submit_button_label="Ask"
    )
    prompt
    return (prompt,)


@app.cell
def _(mo, prompt, server):
    mo.stop(not prompt.value)
    server.chat(prompt.value, max_tokens=200)


@app.cell
def _(mo, server):
    mo.stop(server is None)
    stop = mo.ui.run_button(label="Stop")
    stop
    return (stop,)


@app.cell
def _(mo, server, stop):
    mo.stop(not stop.value)
    server.stop()


@app.cell
def _(mo, vllm_magic):
    mo.ui.anywidget(vllm_magic.panel())


if __name__ == "__main__":
    app.run()
