# The command line on a processor; not built by the tests.
#   docker build -t sparsight .
#   docker run --rm -v "$PWD/runs:/runs" sparsight demo --out /runs/demo
FROM python:3.11-slim

WORKDIR /opt/sparsight
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt torch \
 && pip install --no-cache-dir -c constraints.txt ".[all]"

RUN useradd --create-home runner
USER runner
ENTRYPOINT ["sparsight"]
CMD ["--help"]
