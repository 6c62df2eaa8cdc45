# The sidecar bundle: one static program and nothing else.
FROM scratch
COPY bottle-sidecar /bottle-sidecar
ENTRYPOINT ["/bottle-sidecar", "bundle"]
