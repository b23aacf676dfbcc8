# One image for every part: Airflow's processes, MLflow, the model server, the Evidently UI.
FROM python:3.12-slim-bookworm AS build
WORKDIR /build
COPY requirements-setup.txt requirements.txt ./
# As in `make setup`: build tools first, then the lock with the pinned uv; every archive is checked against its hash.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements-setup.txt \
    && /opt/venv/bin/uv pip install --python /opt/venv/bin/python --no-cache --require-hashes --no-deps \
       --no-build-isolation --compile-bytecode -r requirements.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY plugins plugins
RUN /opt/venv/bin/uv pip install --python /opt/venv/bin/python --no-cache --no-deps --no-build-isolation .

FROM python:3.12-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    DO_NOT_TRACK=1 \
    GX_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    SCARF_ANALYTICS=false \
    GIT_PYTHON_REFRESH=quiet \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    MKL_NUM_THREADS=1
# The folders that volumes are mounted on exist and belong to the user: a new volume takes over both.
RUN useradd --uid 50000 --create-home airflow \
    && install -d -o airflow -g airflow /opt/airflow /opt/airflow/auth /opt/airflow/config /opt/airflow/logs \
       /srv/mlops /srv/mlops/evidently /srv/mlops/spool
# What SageMaker runs in a container that serves a model; MLOPS_PACKAGE says where it was unpacked.
RUN printf '#!/bin/sh\nexport MLOPS_SPOOL_DIR="${MLOPS_SPOOL_DIR:-/tmp/mlops-spool}"\nexec mlops serve --host 0.0.0.0 --port "${SAGEMAKER_BIND_TO_PORT:-8080}" "$@"\n' > /usr/local/bin/serve \
    && chmod 755 /usr/local/bin/serve
# The health checks of Airflow's Helm chart go through this program of Airflow's own image.
RUN printf '#!/bin/sh\nexec "$@"\n' > /entrypoint && chmod 755 /entrypoint
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/airflow
COPY --chown=airflow airflow_settings.yaml ./
COPY --chown=airflow dags dags
COPY --chown=airflow include include
USER airflow
# Scheduler and Celery workers load the ML libraries once, before they fork; other processes see a guard and go on.
RUN python -c "from mlops_provider.cli.stack import LOCAL_SETTINGS; print(LOCAL_SETTINGS, end='')" \
    > config/airflow_local_settings.py
CMD ["airflow", "version"]
