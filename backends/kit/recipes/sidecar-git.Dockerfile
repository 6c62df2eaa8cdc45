# The sidecar bundle of a bottle with remotes for git: beside the one program, git and OpenSSH's client. Nothing of it runs
# but by git-gate. Built from the same base as the agents' image, and never from that image.
ARG BASE
FROM ${BASE}

RUN set -eu; \
    for tool in git ssh ssh-add ssh-agent; do \
        command -v "$tool" >/dev/null && continue; \
        apt-get update && apt-get install -y --no-install-recommends git openssh-client \
            && rm -rf /var/lib/apt/lists/*; \
        break; \
    done; \
    for tool in git ssh ssh-add ssh-agent; do \
        command -v "$tool" >/dev/null || { echo "the base image has no $tool" >&2; exit 1; }; \
    done

# ssh runs for nobody who has no name: the users of the bundle and its daemons get one.
RUN set -eu; \
    for id in 65200 65201 65202 65203 65204 65205 65206 65207; do \
        echo "sidecar-$id:x:$id:$id::/nonexistent:/bin/false" >>/etc/passwd; \
    done

COPY bottle-sidecar /bottle-sidecar
HEALTHCHECK NONE
WORKDIR /
ENTRYPOINT ["/bottle-sidecar", "bundle"]
CMD []
