"""What a user brings, words and images, as training and `generate` must take it alike; and the image's place in the words."""

IMAGE_MARK = "<image>"
"""Stands for the image in the first question."""


def words_of(text: str) -> str:
    """What is said, without the image's mark and the space around it.

    Only one mark is taken away: a conversation has no more, and what is left is not to make another one.
    """
    return text.replace(IMAGE_MARK, "", 1).strip()
