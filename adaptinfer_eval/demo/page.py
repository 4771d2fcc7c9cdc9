"""The page in the browser: it takes a question in, and shows its answers as they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adaptinfer_eval.analysis.kept.asking import BUDGET, Asker, read_own
from adaptinfer_eval.demo.answers import CHOSEN, answers, choices
from adaptinfer_eval.demo.show import as_html, problem_html
from adaptinfer_eval.report.page.provenance import toy
from adaptinfer_eval.sweep.errors import SweepError

HOST = "127.0.0.1"
THEME = gr.themes.Default(primary_hue="blue").set(  # darker than Gradio's own, to be readable
    body_text_color_subdued="*neutral_600",
    block_info_text_color="*neutral_600",
    button_primary_background_fill="*primary_700",
)
TITLE = "Vision-token pruning, side by side"


def page(asker: Asker, samples: list[list[str]], own: Sequence[str] = ()) -> gr.Blocks:
    """One question at a time: others wait for the model. `own`: methods named by file, to choose beside the others."""

    def shown(image: str | None, text: str, methods: list[str], budget: float | None) -> Iterator[str]:
        try:
            for known in answers(asker, image, text, methods, budget):
                yield as_html(known)
        except SweepError as error:
            yield problem_html(str(error))

    def checked(upload: dict[str, Any]) -> tuple[Any, Any]:
        """The picture and what is said below: nothing new where it can be read, else no picture, and why."""
        path = Path(upload["path"])
        try:
            read_own(path)
        except SweepError as error:
            return None, problem_html(str(error).replace(f"{path.parent}/", ""))
        return gr.skip(), gr.skip()

    notice = toy(asker.config)
    lead = f"Every method over `{asker.config.pretrained}`, one question at a time."
    blocks = gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True)
    with blocks:
        gr.Markdown(f"# {TITLE}\n\n{lead}" + (f" **{notice.headline}** {notice.text}" if notice else ""))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                # The file as it is: the models' own way of reading it comes later.
                image = gr.Image(
                    label="Picture",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=300,
                    elem_id="picture",
                )
                text = gr.Textbox(label="Question", lines=3, max_lines=12)
                methods = gr.CheckboxGroup(choices(own), value=list(CHOSEN), label="Methods", info="Beside vanilla.")
                budget = gr.Slider(
                    1,
                    asker.model.anatomy.image_tokens,
                    value=BUDGET,
                    step=1,
                    label="Budget",
                    info="Mean vision tokens per layer, counted as they leave it.",
                )
                button = gr.Button("Ask", variant="primary")
            with gr.Column(scale=5, min_width=320):
                found = gr.HTML(
                    value="<p class='note'>Choose a sample, or a picture and a question of your own.</p>",
                    elem_id="answers",
                )
                gr.Examples(samples, [image, text], label="Samples of the small model's world", examples_per_page=5)
        # As it comes: Gradio's own way to read it would not say what is wrong.
        image.upload(checked, image, [image, found], preprocess=False, show_progress="hidden", api_visibility="private")
        button.click(
            shown,
            [image, text, methods, budget],
            found,
            concurrency_limit=1,
            show_progress="minimal",
            api_visibility="private",
        )
    return blocks


def serve(blocks: gr.Blocks, port: int) -> None:
    """Until it is stopped; on this machine alone."""
    _, address, _ = blocks.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        run_history=False,
        footer_links=[],
        theme=THEME,
        css_paths=Path(__file__).parent / "demo.css",
    )
    print(f"{address}  (Ctrl+C stops it)", flush=True)
    blocks.block_thread()
