#!/bin/sh
# Makes what `docker compose up` needs and what is yours alone: a key for you, a password for Redis, config/altgate.toml.
# Nothing that is there already is touched. A key's digest is all that is kept of it.
#
# secrets/ is closed to other users of this machine. The files in it can be read by all, for a container's user is another
# than you, and is let see its own secrets alone.
set -eu
umask 022
cd "$(dirname "$0")/.."

sha256() { if command -v sha256sum > /dev/null; then sha256sum; else shasum -a 256; fi; }

mkdir -p secrets config
chmod 700 secrets
if [ ! -e secrets/redis.conf ] || [ ! -e secrets/redis_url ]; then  # one password in two files
    password=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    printf 'requirepass %s\n' "$password" > secrets/redis.conf
    printf 'redis://:%s@redis:6379/0\n' "$password" > secrets/redis_url
fi
[ -e secrets/hf_token ] || printf '%s\n' "${HF_TOKEN:-}" > secrets/hf_token
if [ -e config/altgate.toml ]; then
    echo "config/altgate.toml is there already, with its keys. Start it all: docker compose up --detach --wait"
    exit
fi
key=ag-$(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')
digest=$(printf %s "$key" | sha256 | cut -d ' ' -f 1)
{ cat containers/altgate.toml; printf '\n[keys.first]\ndigest = "sha256:%s"\nadmin = true\n' "$digest"; } > config/altgate.toml
cat << EOF
This is your key. It is shown this once and kept nowhere:

  $key

Start it all, then ask:

  docker compose up --detach --wait
  curl http://127.0.0.1:8000/v1/chat/completions -H "Authorization: Bearer $key" -d @engines/demo/request.json
EOF
