# The image that agents run in. Built by bottle when it is missing or when this recipe has changed.
#
# The base brings a shell, git, curl and npm; a base that already has the pinned claude is taken as it is.
ARG BASE
FROM ${BASE}
ARG CLAUDE_VERSION
ARG CLAUDE_PACKAGE
ARG CLAUDE_INTEGRITY
ARG CLAUDE_SHA256

RUN set -eu; \
    for tool in git curl; do \
        command -v "$tool" >/dev/null && continue; \
        apt-get update && apt-get install -y --no-install-recommends git curl ca-certificates \
            && rm -rf /var/lib/apt/lists/*; \
        break; \
    done

# The tarball is held against npm's integrity of this version, the program inside against its own hash; of a version that
# somebody asked for, nobody has written these down, and npm's own check has to do.
RUN set -eu; \
    claude=/usr/local/bin/claude; \
    if [ -z "$CLAUDE_SHA256" ] || ! echo "$CLAUDE_SHA256  $claude" | sha256sum --check --status 2>/dev/null; then \
        command -v npm >/dev/null || { echo "the base image has neither npm nor claude $CLAUDE_VERSION" >&2; exit 1; }; \
        cd /tmp; \
        file=$(npm pack --silent "$CLAUDE_PACKAGE@$CLAUDE_VERSION"); \
        [ -z "$CLAUDE_INTEGRITY" ] || echo "$CLAUDE_INTEGRITY  $file" | sha512sum --check --status \
            || { echo "$CLAUDE_PACKAGE@$CLAUDE_VERSION is not the package that this bottle was made for" >&2; exit 1; }; \
        tar -xzf "$file" --strip-components=1 package/claude; \
        install -D -m 0755 claude "$claude"; \
        rm -rf "$file" claude /root/.npm; \
        [ -z "$CLAUDE_SHA256" ] || echo "$CLAUDE_SHA256  $claude" | sha256sum --check --status; \
    fi

RUN set -eu; \
    getent group 1000 >/dev/null || groupadd --gid 1000 agent; \
    getent passwd 1000 >/dev/null || useradd --uid 1000 --gid 1000 --no-create-home --shell /bin/bash agent; \
    usermod --home /home/agent "$(getent passwd 1000 | cut -d: -f1)"; \
    install -d -o 1000 -g 1000 -m 0755 /home/agent /workspace; \
    install -d -m 0755 /usr/local/libexec /etc/bottle

ENV HOME=/home/agent
WORKDIR /workspace
USER 1000:1000
CMD ["/bin/bash"]
