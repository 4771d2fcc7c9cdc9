"""The second harness, VLMEvalKit, over the same prompts, images and answering as lmms-eval.

Nothing of VLMEvalKit is imported before it is needed (`kit.load_kit`), and nothing of it is changed.
"""

from __future__ import annotations

DATA = {
    "adaptinfer_mme": "MME",
    "adaptinfer_gqa": "GQA_TestDev_Balanced",
    "adaptinfer_mmbench_en_dev": "MMBench_DEV_EN",
    "adaptinfer_scienceqa_img": "ScienceQA_TEST",
    "adaptinfer_textvqa": "TextVQA_VAL",
    "mini_mme": "MINI_MME",
    "mini_gqa": "MINI_GQA",
    "mini_mmbench": "MINI_MMBench",
    "mini_scienceqa": "MINI_ScienceQA",
    "mini_textvqa": "MINI_TextVQA",
}
"""A task here → VLMEvalKit's data set. What stands in a name decides how VLMEvalKit scores it (`tsv`)."""
