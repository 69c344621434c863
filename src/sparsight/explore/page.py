"""The page of the explorer: controls on top, two settings side by side below."""

import os
from collections.abc import Callable
from html import escape
from tempfile import TemporaryDirectory
from typing import Any

from sparsight.errors import SparsightError
from sparsight.explore.pictures import opened
from sparsight.explore.session import Seen, Session
from sparsight.explore.setting import Setting, layers_from
from sparsight.extras import extra
from sparsight.report.pictures import panels

GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px"
INTRO = """# Sparsight explorer
Drop in a picture, or choose one of your folder. Then slide **keep** and see which tokens are kept, what
the sparse model thinks is important, how far its features move, and how long both models take here."""


def build(session: Session) -> Any:
    """The page as a gradio app, not yet served."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    gr = extra("gradio")

    names, layers = session.names(), session.layers()
    with gr.Blocks(title="Sparsight explorer", analytics_enabled=False) as app:
        gr.Markdown(INTRO)
        with gr.Row():
            # Not gr.Image: it decodes what is dropped before we can refuse it in a sentence.
            dropped = gr.File(label="Picture", type="filepath", file_types=["image"], height=140)
            with gr.Column():
                chosen = gr.Dropdown(
                    names, label="or one of the folder", value=names[0] if names else None
                )
                layer = gr.Dropdown(
                    [str(n) for n in layers], label="Layer whose attention is shown",
                    value=str(layers[-1]) if layers else None, interactive=bool(layers),
                )  # fmt: skip
        sides = []
        with gr.Row():
            for side, keep in (("A", 1 / 8), ("B", 1 / 4)):
                with gr.Column():
                    sides.append(_side(gr, session, side, keep))
        for controls, outputs, button, save, saved in sides:
            inputs = [dropped, chosen, layer, *controls]

            def show(*values: Any) -> tuple[str, str]:
                return _shown(session, *values)

            # By key or by mouse; while one is computed, only the latest of the next is kept.
            gr.on(
                [*(c.change for c in controls[:3]), button.click, dropped.change, chosen.change,
                 layer.change, *([app.load] if names else [])],
                show, inputs, outputs, concurrency_limit=1, concurrency_id="model",
                trigger_mode="always_last",
            )  # fmt: skip
            save.click(lambda *values: _saved(session, *values), controls, saved, concurrency_limit=1)
    return app


def _side(gr: Any, session: Session, side: str, keep: float) -> Any:
    """Controls and results of one setting."""
    methods = session.methods()
    method = gr.Dropdown(methods, label=f"{side}: method", value=methods[0])
    slider = gr.Slider(0.02, 1, keep, step=0.01, label=f"{side}: keep, fraction of tokens")
    score = gr.Dropdown(session.scores(), label=f"{side}: ranked by (SVE)", value="sampled")
    layers = gr.Textbox("", label=f"{side}: layers (SVE)", placeholder="all, or like 4-11")
    with gr.Row():
        button = gr.Button(f"Show {side}", variant="primary")
        save = gr.Button(f"Save {side} as a plan")
    saved = gr.Markdown("", elem_id=f"saved-{side}")
    told = gr.Markdown("", elem_id=f"told-{side}")
    images = gr.HTML("", elem_id=f"images-{side}")
    return [method, slider, score, layers], [images, told], button, save, saved


def _shown(
    session: Session, path: str | None, chosen: str | None, layer: str | None, method: str, keep: float,
    score: str, layers: str,
) -> tuple[str, str]:  # fmt: skip
    """Images with captions, and a sentence; or what is wrong, as a sentence."""
    try:
        setting = Setting(method, float(keep), score, layers_from(layers or "", session.layers()))
        if path:
            picture, name = session.tensor_of(opened(path)), os.path.basename(path)
        elif chosen:
            picture, name = session.images[session.names().index(chosen)], chosen
        else:
            return "", "Drop in a picture first."
        seen = session.see(picture, name, setting, int(layer) if layer else -1)
    except (SparsightError, OSError, ValueError) as error:
        return "", f"**Not possible:** {escape(str(error))}"
    return figures(seen), told(seen)


def figures(seen: Seen) -> str:
    """The images of one setting, as in the report."""
    return f'<div style="{GRID}">' + "".join(
        f'<figure style="margin:0"><img style="width:100%" src="{panel.uri}" alt="{escape(panel.alt)}">'
        f"<figcaption>{escape(panel.caption)}</figcaption></figure>"
        for panel in panels(seen.look)
    ) + "</div>"  # fmt: skip


def told(seen: Seen) -> str:
    """The figures of one setting."""
    look = seen.look
    found = "".join(
        f"; finds {100 * value:.0f} % of the true top eighth in layer {layer}"
        for layer, value in look["recalls"].items()
    )
    return (
        f"**{seen.dense_ms / seen.sparse_ms:.2f}x**: {seen.sparse_ms:.0f} ms instead of "
        f"{seen.dense_ms:.0f} ms on this machine; features moved by "
        f"**{100 * look['relative_error']:.1f} %** (cosine {look['cosine']:.4f}){found}."
        + "".join(f"\n\nNote: {escape(note)}." for note in seen.notes)
    )


def _saved(session: Session, method: str, keep: float, score: str, layers: str) -> str:
    """Where the setting went, or why it did not."""
    try:
        setting = Setting(method, float(keep), score, layers_from(layers or "", session.layers()))
        folder = session.save(setting)
    except (SparsightError, OSError, ValueError) as error:
        return f"**Not saved:** {escape(str(error))}"
    return f"Saved: `sparsight measure {folder}`"


def serve(session: Session, host: str, port: int | None, say: Callable[[str], None]) -> None:
    """Open the page on `host`; ends when interrupted, and what was dropped in is deleted."""
    with TemporaryDirectory(prefix="sparsight-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when the controls are made
        _launch(build(session), host, port, say)


def _launch(app: Any, host: str, port: int | None, say: Callable[[str], None]) -> None:
    """Serve `app` until interrupted."""
    import gradio as gr

    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_700",  # white text on less would be faint
    )  # fmt: skip
    _, address, _ = app.queue(default_concurrency_limit=1).launch(
        server_name=host, server_port=port, share=False, show_error=False, quiet=True, theme=theme,
        max_file_size="64mb", footer_links=[], enable_monitoring=False,
        prevent_thread_lock=True,
    )  # fmt: skip
    say(f"the page is at {address}; Ctrl-C ends it")
    app.block_thread()
