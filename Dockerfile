# docker build -t degla .                                                                  (with CUDA)
# docker build -t degla --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .     (CPU only, smaller)
# docker run --rm --gpus all --shm-size=8g -u "$(id -u):$(id -g)" -v "$PWD:/work" degla degla-train experiment=demo
FROM python:3.12-slim

ARG TORCH_INDEX=""
COPY pyproject.toml README.md LICENSE /opt/degla/
COPY configs /opt/degla/configs
COPY degla /opt/degla/degla
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; \
    fi \
    && pip install --no-cache-dir '/opt/degla[hf,negatives,order]'

# Caches go below the mounted folder, so that any user id can write them and they outlive the container.
ENV HF_HOME=/work/.cache/huggingface XDG_CACHE_HOME=/work/.cache MPLCONFIGDIR=/tmp/matplotlib HOME=/work
WORKDIR /work
RUN chmod 1777 /work
CMD ["degla-train", "--help"]
