#!/usr/bin/env bash
# Write a certificate authority of your own and a certificate for a SuperLink: ca.crt, server.crt, server.key.
# For trials: whoever reads ca.key can impersonate the SuperLink. Delete it once the certificate is written.
#
#   bash experiments/deployment/certificates.sh FOLDER [DNS:name | IP:address ...]
set -euo pipefail

folder=$1
shift
names="DNS:localhost,IP:127.0.0.1"
for name in "$@"; do names+=",$name"; done
key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)

mkdir -p "$folder"
cd "$folder"
umask 077
openssl req -x509 "${key[@]}" -days 30 -subj "/CN=flower-dfl trial authority" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.crt
openssl req "${key[@]}" -subj "/CN=SuperLink" -keyout server.key -out server.csr
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out server.crt \
    -extfile <(printf 'subjectAltName=%s\nauthorityKeyIdentifier=keyid\n' "$names")
