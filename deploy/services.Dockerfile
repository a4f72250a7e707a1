# PostgreSQL, Redis, Prometheus and Alertmanager from Debian packages, for machines without a registry. The first three take the same
# settings as the official images, which compose.yaml works with as well.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE} AS base
ENV LANG=C.UTF-8
ARG DEBIAN_FRONTEND=noninteractive
# Installing a package must not start its service, and the PostgreSQL cluster that Debian creates would not be used.
# force-unsafe-io: without it dpkg syncs every file to disk (workspace-base/Dockerfile).
RUN printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d \
    && echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io \
    && mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
ARG INPUTS=none
LABEL nagaya.image.inputs=${INPUTS}

FROM base AS postgres
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql-15 >/dev/null \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/* \
    && install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data \
    # As in the official image: a tmpfs mounted here gets this mode, so any user can write to it.
    && install -d -o postgres -g postgres -m 3777 /var/run/postgresql
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data/pgdata
COPY postgres.sh /usr/local/bin/postgres.sh
USER postgres
EXPOSE 5432
# Fast shutdown: sessions are ended and everything is written. SIGTERM would wait for the last client to leave.
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres.sh"]
CMD ["postgres"]

FROM base AS redis
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server >/dev/null \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/*
USER redis
WORKDIR /tmp
EXPOSE 6379
CMD ["redis-server"]

FROM base AS prometheus
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus >/dev/null \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/* \
    && install -d -o prometheus -g prometheus -m 1777 /prometheus
USER prometheus
EXPOSE 9090
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]

FROM base AS alertmanager
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus-alertmanager >/dev/null \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/* \
    # In the official image only nobody may write here.
    && install -d -o prometheus -g prometheus -m 1777 /alertmanager
USER prometheus
EXPOSE 9093
ENTRYPOINT ["prometheus-alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager", "--cluster.listen-address="]
