"""A scorer behind a URL:

    tglo score manifest.csv --scorer bright=http://127.0.0.1:8000/score
    tglo score videos.csv --scorer steady=http://127.0.0.1:8000/score,videos=1

Put models of your own in the place of `bright` and `steady`. docs/rewards.md describes what is posted and answered.
"""

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageChops, ImageStat


def bright(images: list[bytes], prompts: list[str]) -> list[float]:
    pictures = [Image.open(io.BytesIO(image)).convert("L") for image in images]
    return [ImageStat.Stat(picture).mean[0] / 255 for picture in pictures]


def steady(videos: list[bytes], prompts: list[str]) -> list[float]:
    return [1 - change(video) for video in videos]


def change(video: bytes) -> float:
    """The greatest difference between two frames that follow each other, from 0 to 1."""
    import av  # pip install av

    found, before = 0.0, None
    with av.open(io.BytesIO(video)) as container:
        for frame in container.decode(video=0):
            now = frame.to_image().convert("L")
            if before is not None:
                found = max(found, ImageStat.Stat(ImageChops.difference(now, before)).mean[0] / 255)
            before = now
    return found


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind, score = ("videos", steady) if "videos" in asked else ("images", bright)
        scores = score([base64.b64decode(text) for text in asked[kind]], asked["prompts"])
        answer = json.dumps({"scores": scores}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(f"http://127.0.0.1:{server.server_port}/score", flush=True)
    server.serve_forever()
