"""What is asked, without how it is to be answered."""

import re

_INSTRUCTIONS = re.compile(
    r"\s*(?:Answer the question using a single word or phrase\."
    r"|Answer with the option's letter from the given choices directly\.)"
)


def without_instructions(question: str) -> str:
    """A task's question without the sentence that LLaVA-1.5's prompts end with."""
    return _INSTRUCTIONS.sub("", question)
