//! Faults in the PTX, which the checks of its kernels find.

use crate::launch::{Checked, Kernels, PTX};
use crate::{copies, digests, huge, pieces, sums};

/// The name of a kernel, and its check.
type Checker = (&'static str, fn(&Kernels) -> Checked);

const CHUNKS: Checker = ("blake3_chunks", digests::check);
const NODES: Checker = ("blake3_nodes", digests::check);
const PIECES: Checker = ("blake3_pieces", pieces::check);
const COPIES: Checker = ("copy_rows", copies::check);
const SUMS: Checker = ("line_sums", sums::check);

/// The PTX with each of the faults that `change` makes of a line of the kernel.
fn faults(kernel: &str, change: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let start = PTX.find(&format!(".entry {kernel}(")).expect("the kernel");
    let end = start + PTX[start..].find("\n}\n").expect("its end");
    let mut found = Vec::new();
    let mut at = start;
    for line in PTX[start..end].split_inclusive('\n') {
        let next = at + line.len();
        if let Some(changed) = change(line) {
            assert_ne!(changed, line);
            found.push([&PTX[..at], &changed, &PTX[next..]].concat());
        }
        at = next;
    }
    assert!(!found.is_empty(), "no place for this fault in {kernel}");
    found
}

/// Replaces a part of the lines that have an instruction.
fn replacing(instruction: &str, part: &str, by: &str) -> impl Fn(&str) -> Option<String> {
    move |line| {
        let is_there = line.contains(instruction) && line.contains(part);
        is_there.then(|| line.replace(part, by))
    }
}

/// What the check of a kernel finds in PTX with a fault.
fn problem_of((kernel, check): Checker, ptx: &str) -> String {
    let kernels = Kernels::parse(ptx).expect("PTX with a fault is parsed");
    let changed = || {
        PTX.lines()
            .zip(ptx.lines())
            .find(|(before, after)| before != after)
    };
    match check(&kernels) {
        Err(problem) => problem,
        Ok(()) => panic!("not found in {kernel}: {:?}", changed()),
    }
}

#[test]
fn each_barrier_is_needed() {
    for kernel in [CHUNKS, NODES, PIECES, SUMS] {
        let without = |line: &str| line.contains("bar.sync").then(String::new);
        for ptx in faults(kernel.0, without) {
            let problem = problem_of(kernel, &ptx);
            let is_race = problem.contains("races with") || problem.contains("never written");
            assert!(is_race, "{problem}");
        }
    }
}

#[test]
fn barriers_that_only_some_threads_reach_are_found() {
    // Whether a thread has no chunk or line.
    for (kernel, comparison) in [(CHUNKS, "setp.ge.u32"), (SUMS, "setp.ge.u64")] {
        let barrier = |line: &str| {
            let operands = line.trim().strip_prefix(comparison)?;
            let (predicate, _) = operands.trim().split_once(',')?;
            Some(format!("{line}\t@{predicate} bar.sync 0;\n"))
        };
        let problem = problem_of(kernel, &faults(kernel.0, barrier)[0]);
        assert!(problem.contains("leaves the barriers"), "{problem}");
    }
}

#[test]
fn wrong_rotations_change_digests() {
    for kernel in [CHUNKS, NODES, PIECES] {
        for (rotation, wrong) in [(", 16;", ", 17;"), (", 25;", ", 24;")] {
            let all = faults(kernel.0, replacing("shf.l.wrap.b32", rotation, wrong));
            assert!(all.len() >= 48, "of about 7 rounds of 8 quarters");
            for ptx in all.iter().step_by(11) {
                let problem = problem_of(kernel, ptx);
                assert!(problem.contains("differs"), "{problem}");
            }
        }
    }
}

#[test]
fn a_last_chunk_that_is_read_as_a_whole_one_is_out_of_bounds() {
    for kernel in [CHUNKS, PIECES] {
        for ptx in faults(kernel.0, replacing("min.u64", "min.u64", "max.u64")) {
            let problem = problem_of(kernel, &ptx);
            assert!(problem.contains("reads"), "{problem}");
            assert!(problem.contains("out of bounds"), "{problem}");
        }
    }
}

#[test]
fn missing_root_flags_change_digests() {
    let chunk = || replacing("selp.b32", ", 10, 2, ", ", 2, 2, ");
    let parent = || replacing("selp.b32", ", 12, 4, ", ", 4, 4, ");
    let mut all = Vec::new();
    for kernel in [CHUNKS, PIECES] {
        all.extend(
            faults(kernel.0, chunk())
                .into_iter()
                .map(|ptx| (kernel, ptx)),
        );
    }
    for kernel in [CHUNKS, NODES, PIECES] {
        all.extend(
            faults(kernel.0, parent())
                .into_iter()
                .map(|ptx| (kernel, ptx)),
        );
    }
    for (kernel, ptx) in all {
        let problem = problem_of(kernel, &ptx);
        assert!(problem.contains("differs"), "{problem}");
    }
}

#[test]
fn a_wrong_counter_changes_digests() {
    // The high word of the counter becomes half of the chunk's index.
    for ptx in faults(CHUNKS.0, replacing("shr.u64", ", 32;", ", 1;")) {
        let problem = problem_of(CHUNKS, &ptx);
        assert!(problem.contains("differs"), "{problem}");
    }
}

/// Numbers are divided in 32 bits where their high words are zero.
#[test]
fn indices_that_are_cut_to_32_bits_are_found() {
    for kernel in [CHUNKS.0, NODES.0] {
        for ptx in faults(kernel, replacing("and.b64", ", -4294967296;", ", 0;")) {
            problem_of((kernel, huge::check), &ptx);
        }
    }
}

#[test]
fn wide_words_at_odd_addresses_are_misaligned() {
    for kernel in [CHUNKS, PIECES, COPIES, SUMS] {
        for ptx in faults(kernel.0, replacing("and.b32", ", 15;", ", 3;")) {
            let problem = problem_of(kernel, &ptx);
            assert!(problem.contains("misaligned"), "{problem}");
        }
    }
}

#[test]
fn a_path_that_ignores_the_alignment_of_words_is_found() {
    for kernel in [CHUNKS, PIECES, COPIES, SUMS] {
        for ptx in faults(kernel.0, replacing("and.b32", ", 3;", ", 0;")) {
            problem_of(kernel, &ptx);
        }
    }
}

#[test]
fn rows_that_are_copied_or_summed_wrongly_are_found() {
    let halves = faults(COPIES.0, replacing("", "16384", "8192"));
    // The segment before the last is taken for the last: what follows is copied twice.
    let repeats = faults(COPIES.0, replacing("setp.lt.u64", "16384", "32768"));
    for ptx in halves.iter().chain(&repeats) {
        problem_of(COPIES, ptx);
    }
    for ptx in faults(SUMS.0, replacing("ld.shared.u64", "+8]", "+16]")) {
        problem_of(SUMS, &ptx);
    }
}
