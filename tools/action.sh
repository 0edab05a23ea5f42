#!/usr/bin/env bash
# What action.yml runs: check the checkpoints below ROPEPATCH_PATH, tell GitHub, and publish when that was asked for.
# It reads nothing but its environment, and runs anywhere.
set -uo pipefail

path=${ROPEPATCH_PATH:-.}
summary=${GITHUB_STEP_SUMMARY:-/dev/null}
output=${GITHUB_OUTPUT:-/dev/null}
python=${ROPEPATCH_PYTHON:-python}

options=(--github)
[[ -n ${ROPEPATCH_RUNTIMES:-} ]] && options+=(--for "$ROPEPATCH_RUNTIMES")
[[ ${ROPEPATCH_VERIFY:-true} == false ]] && options+=(--no-verify)

found=$("$python" -m ropepatch.hook "${options[@]}" -- "$path")
code=$?
[[ -n $found ]] && printf '%s\n' "$found"
errors=$(grep -c '^::error ' <<<"$found")
warnings=$(grep -c '^::warning ' <<<"$found")
printf 'errors=%s\n' "$errors" >>"$output"
{
    printf '### ropepatch\n\n%s errors, %s warnings\n\n' "$errors" "$warnings"
    if [[ -n $found ]]; then
        # Indented text is shown as it is, whatever the names of the files.
        sed -E 's/^::(error|warning) file=([^:]*)::/    \1  \2  /' <<<"$found"
    fi
} >>"$summary"
((code == 0)) || exit "$code"

if [[ -n ${ROPEPATCH_PUSH_TO:-} ]]; then
    # The Hub trusts this job for this repository; huggingface_hub exchanges the job's identity for a token itself.
    if [[ -n ${ACTIONS_ID_TOKEN_REQUEST_URL:-} && -z ${HF_TOKEN:-} ]]; then
        export HF_OIDC_RESOURCE=${HF_OIDC_RESOURCE:-$ROPEPATCH_PUSH_TO}
    fi
    read -r -a more <<<"${ROPEPATCH_PUSH_OPTIONS:-}"
    "$python" -m ropepatch push "$path" --to "$ROPEPATCH_PUSH_TO" ${more[@]+"${more[@]}"} || exit $?
fi
