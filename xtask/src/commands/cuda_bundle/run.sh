#!/usr/bin/env bash
# Runs torchcache's tests and benchmarks on this machine's GPU.
#
#   run.sh [--cpu] [--no-bench] [NAME...]
#
#   --cpu        go on without a GPU: a dry run of the bundle itself
#   --no-bench   only the tests
#   NAME         only the programs of that name (see the file `programs`)
#
# Needed: Python with `import torch` of the version below. $PYTHON names the interpreter.
# Ends with the line `N passed, N failed`. Exit code: 0, 1 when something failed or nothing ran,
# 2 when the command line or the machine is not right. Full outputs are left in output/.
set -uo pipefail
readonly needed=@TORCH@
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stop() { echo "error: $*" >&2; exit 2; }

cpu=no bench=yes only=()
for arg in "$@"; do
    case $arg in
        --cpu) cpu=yes ;;
        --no-bench) bench=no ;;
        -*) stop "there is no option $arg; there are --cpu and --no-bench" ;;
        *) only+=("$arg") ;;
    esac
done

python=${PYTHON:-$(command -v python3 || command -v python)} || stop "there is no Python here"
facts=$("$python" - <<'EOF'
import os, torch
print(torch.__version__)
print(os.path.join(os.path.dirname(torch.__file__), "lib"))
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")
EOF
) || stop "$python cannot import torch: install torch==$needed, or name another Python in PYTHON"
{ read -r version; read -r lib; read -r gpu; } <<<"$facts"

[[ ${version%%+*} == "$needed" ]] \
    || stop "$python has torch $version, but these programs need $needed: pip install torch==$needed"
if [[ -z ${gpu-} ]]; then
    [[ $cpu == yes ]] || stop "torch $version finds no CUDA device; --cpu goes on without one"
    gpu="none, on the CPU"
else
    # For tests that would rather fail than quietly do without.
    export TORCHCACHE_TEST_DEVICE=cuda
fi
export LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
echo "torch $version, GPU: $gpu"

output=$here/output
mkdir -p "$output" || stop "cannot write to $here"
chmod +x "$here"/bin/*
passed=0 failed=0 lines=()

# run KIND PACKAGE TARGET FILE, as cargo would: in the package's folder, knowing where it is.
run() {
    local kind=$1 package=$2 target=$3 file=$here/bin/$4 log=$output/$1-$3.log good=0 bad=0 status
    echo "=== $kind $package/$target"
    local missing
    missing=$(ldd "$file" 2>&1 | grep 'not found')
    if [[ -n $missing ]]; then
        echo "this machine lacks libraries of the program:"$'\n'"$missing" | tee "$log"
        status=127
    elif [[ $kind == bench ]]; then
        (cd "$here/$package" && CARGO_MANIFEST_DIR=$PWD "$file" --bench) 2>&1 | tee "$log"
        status=${PIPESTATUS[0]}
    else
        (cd "$here/$package" && CARGO_MANIFEST_DIR=$PWD "$file") 2>&1 | tee "$log"
        status=${PIPESTATUS[0]}
    fi
    # The counts of a test program; a benchmark, or a program that died before it counted,
    # counts as one.
    read -r good bad < <(awk '/^test result:/ { good += $4; bad += $6 } END { print good+0, bad+0 }' "$log")
    if [[ $status -ne 0 && $bad -eq 0 ]]; then bad=1; fi
    if [[ $status -eq 0 && $kind == bench ]]; then good=1; fi
    passed=$((passed + good)) failed=$((failed + bad))
    lines+=("$(printf '%-6s %-40s %4d passed %4d failed' "$kind" "$package/$target" "$good" "$bad")")
}

while read -r kind package target file; do
    # Programs that tests start; they find them in their own folder.
    [[ $kind == bin ]] && continue
    [[ $kind == bench && $bench == no ]] && continue
    if [[ ${#only[@]} -gt 0 ]]; then
        [[ " ${only[*]} " == *" $target "* ]] || continue
    fi
    run "$kind" "$package" "$target" "$file" </dev/null
done <"$here/programs"

echo
printf '%s\n' "${lines[@]}"
echo "$passed passed, $failed failed"
[[ $failed -eq 0 && $passed -gt 0 ]]
