#!/usr/bin/env bash
# Runs torchcache's tests and benchmarks on this machine's GPU.
#
#   run.sh [--cpu] [--no-bench] [NAME...]
#   run.sh --prove [--cpu] [--limits=FACTOR] [STEP...]
#
#   --cpu        use no GPU: a dry run of the bundle itself
#   --no-bench   only the tests
#   NAME         only the programs of that name (see the file `programs`)
#   --prove      all that shows whether torchcache works on this GPU, in less than nine minutes;
#                the results are in output/proof.json (see prove.py)
#   --limits     multiply the time limits of its steps, on a slow machine
#   STEP         only the steps of that name
#
# Needed: Python with `import torch` of the version below. $PYTHON names the interpreter.
# Ends with the line `N passed, N failed`. Exit code: 0, 1 when something failed or nothing ran,
# 2 when the command line or the machine is not right. Full outputs are left in output/.
set -uo pipefail
readonly needed=@TORCH@
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stop() { echo "error: $*" >&2; exit 2; }

cpu=no bench=yes prove=no only=() of_proof=()
for arg in "$@"; do
    case $arg in
        --cpu) cpu=yes of_proof+=("$arg") ;;
        --no-bench) bench=no ;;
        --prove) prove=yes ;;
        --limits=*) of_proof+=("$arg") ;;
        -*) stop "there is no option $arg; there are --cpu, --no-bench, --prove and --limits=FACTOR" ;;
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
if [[ $cpu == yes ]]; then
    gpu="not used"
    unset TORCHCACHE_TEST_DEVICE
else
    [[ -n ${gpu-} ]] || stop "torch $version finds no CUDA device; --cpu goes on without one"
    # For tests that would rather fail than quietly do without.
    export TORCHCACHE_TEST_DEVICE=cuda
fi
export LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
echo "torch $version, GPU: $gpu"

output=$here/output
mkdir -p "$output" || stop "cannot write to $here"
chmod +x "$here"/bin/*
if [[ $prove == yes ]]; then
    exec "$python" "$here/prove.py" ${of_proof[@]+"${of_proof[@]}"} ${only[@]+"${only[@]}"}
fi
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
