#!/usr/bin/env bash
# Writes requirements.txt anew: the newest releases that fit MLflow's server, each with the hash of its wheel for Python 3.11 on
# this machine's architecture. Run it, look at the difference, run the tests, commit. Needs Python 3.11 with pip.
set -euo pipefail
cd "$(dirname "$0")"
version=3.17.2
# mlflow itself without what it asks for: pyarrow, scipy, scikit-learn and matplotlib (300 MB) serve clients, not the server. numpy
# and pandas are imported by the server, too. flask-wtf is for basic-auth.
alone=("mlflow==$version" numpy pandas)
whole=("mlflow-skinny==$version" "mlflow-tracing==$version" 'Flask<4' 'Flask-CORS<7' Flask-WTF 'alembic<2' 'sqlalchemy<3'
  'gunicorn<27' 'huey<4' 'graphene<4' 'cryptography<51' psycopg2-binary boto3 'aiohttp<4' 'docker<8' python-dateutil pytz tzdata six)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m pip install -q --dry-run --ignore-installed --report "$work/alone" --no-deps "${alone[@]}"
python3.11 -m pip install -q --dry-run --ignore-installed --report "$work/whole" "${whole[@]}"
python3.11 - "$work" >requirements.txt <<'PYTHON'
import json, re, sys
found = {}
for name in ("alone", "whole"):
    for item in json.load(open(f"{sys.argv[1]}/{name}"))["install"]:
        key = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        found[key] = (item["metadata"]["version"], item["download_info"]["archive_info"]["hashes"]["sha256"])
print("# Written by lock.sh; Python 3.11, x86_64.")
for name, (version, sha256) in sorted(found.items()):
    print(f"{name}=={version} --hash=sha256:{sha256}")
PYTHON
