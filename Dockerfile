# The server as an unprivileged user; everything it writes is in /data.
#
#   docker build -t tollway .
#   docker run --rm -v tollway:/data tollway keys create me
#   docker run --read-only --cap-drop ALL -p 4000:4000 -v tollway:/data -e OPENAI_API_KEY tollway

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock .
RUN python -m venv /opt/tollway \
 && /opt/tollway/bin/pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE router.yaml ./
COPY proxy proxy
COPY adapters adapters
COPY policies policies
RUN /opt/tollway/bin/pip install --no-deps . \
 && /opt/tollway/bin/python -m compileall -q /opt/tollway/lib

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tollway \
 && install -d -o tollway -m 700 /data
COPY --from=build /opt/tollway /opt/tollway
# Listening beyond loopback needs a key: without one the server refuses to start and says so.
ENV PATH=/opt/tollway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TOLLWAY_DATA=/data \
    TOLLWAY_HOST=0.0.0.0
USER tollway
WORKDIR /data
VOLUME /data
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:4000/readyz', timeout=2)"]
ENTRYPOINT ["tollway"]
CMD ["serve"]
