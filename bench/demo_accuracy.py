"""How many of 100 scenes the demo model describes exactly right: `python bench/demo_accuracy.py`.

The scenes are held out from training, drawn at 192 pixels, sent through the running server as PNG, JPEG and WebP.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from openai import OpenAI  # noqa: E402 - the project's root comes first

from engines.demo import scenes  # noqa: E402
from tests import pictures  # noqa: E402

FORMS = {"PNG": {}, "JPEG": {"quality": 85}, "WEBP": {"quality": 85}}


def main() -> None:
    """Prints one line a form."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gateway.cli", "serve", "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder)
        try:
            assert server.stdout is not None
            url = next(found[1] for line in server.stdout if (found := re.search(r"Base URL: (\S+)", line)))
            with OpenAI(base_url=url, api_key="any") as client:
                for form, options in FORMS.items():
                    print(f"{form}: {_right(client, form, options)} of 100 exactly right")
        finally:
            server.terminate()
            server.wait()


def _right(client: OpenAI, form: str, options: dict[str, int]) -> int:
    right = 0
    for scene in pictures.SCENES[:100]:
        picture = pictures.encoded(scenes.draw(scene, 192), form, **options)
        messages = [pictures.message(pictures.data_url(picture))]
        answer = client.chat.completions.create(model="demo", messages=messages)  # type: ignore[arg-type]
        right += answer.choices[0].message.content == scenes.caption(scene)
    return right


if __name__ == "__main__":
    main()
