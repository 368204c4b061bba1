"""Words and images as users bring them, taken alike by training and by `generate`; and the image's mark."""

IMAGE_MARK = "<image>"
"""Stands for the image in the first question."""


def words_of(text: str) -> str:
    """What is said, without the image's mark and the space around it.

    Only one mark is taken away: a conversation has no more, and what is left is not to make another one.
    """
    return text.replace(IMAGE_MARK, "", 1).strip()
