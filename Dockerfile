# docker build -t realdataexp . && docker run --rm -v "$PWD/results:/work/results" realdataexp run demo
FROM python:3.11-slim
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# The CPU wheel of PyTorch; --build-arg TORCH=https://download.pytorch.org/whl/cu126 for a GPU.
ARG TORCH=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH" ".[charts,sklearn]"
WORKDIR /work
ENTRYPOINT ["realdataexp"]
CMD ["--help"]
