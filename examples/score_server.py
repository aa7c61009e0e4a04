"""A scorer behind a URL: tglo score manifest.csv --scorer bright=http://127.0.0.1:8000/score

Put a model of your own in the place of `bright`. docs/rewards.md describes what is posted and answered.
"""

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageStat


def bright(images: list[Image.Image], prompts: list[str]) -> list[float]:
    return [ImageStat.Stat(image.convert("L")).mean[0] / 255 for image in images]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in asked["images"]]
        answer = json.dumps({"scores": bright(images, asked["prompts"])}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(f"http://127.0.0.1:{server.server_port}/score", flush=True)
    server.serve_forever()
