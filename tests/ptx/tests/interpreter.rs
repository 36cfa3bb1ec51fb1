//! What the interpreter computes, and what it refuses.

use torchcache_ptx::{Buffers, Error, Fault, Grid, Module};

/// A kernel `k` with these statements, which has registers of each kind, the address of an output and two
/// variables in shared memory.
fn module(statements: &str) -> Result<Module, Error> {
    Module::parse(&format!(
        "
.version 8.0
.target sm_60
.address_size 64
.visible .entry k(
    .param .u64 out,
    .param .u32 number
)
.maxntid 128, 1, 1
{{
    .reg .pred %p<4>;
    .reg .b16 %rs<4>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    .shared .align 4 .b8 first[3];
    .shared .align 8 .b8 second[512];
    ld.param.u64 %rd1, [out]; // the output
    ld.param.u32 %r1, [number];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 8;
    add.s64 %rd3, %rd1, %rd2;
    {statements}
    ret;
}}
"
    ))
}

/// Runs statements in two blocks of so many threads, on an output of 8 bytes a thread of one block.
fn run(threads: u32, statements: &str) -> Result<Vec<u8>, Error> {
    run_blocks(1, threads, statements)
}

fn run_blocks(blocks: u32, threads: u32, statements: &str) -> Result<Vec<u8>, Error> {
    let module = module(statements)?;
    let mut memory = Buffers::new();
    let out = memory.output(0, 8 * threads as usize);
    module
        .kernel("k")?
        .run(Grid { blocks, threads }, &[out, 7], &mut memory)?;
    Ok(memory.written(out).expect("all are written").to_vec())
}

/// The number that one thread stores.
fn value(statements: &str) -> u64 {
    let stored = format!("{statements}\nst.global.u64 [%rd3], %rd4;");
    let bytes = run(1, &stored).unwrap();
    u64::from_le_bytes(bytes.try_into().unwrap())
}

fn fault(threads: u32, statements: &str) -> Fault {
    match run(threads, statements) {
        Err(Error::Fault { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn results_are_as_wide_as_their_registers() {
    let word = |statements: &str| value(&format!("{statements}\ncvt.u64.u32 %rd4, %r3;"));
    assert_eq!(word("add.s32 %r3, %r1, -8;"), 0xffff_ffff);
    assert_eq!(word("sub.s32 %r3, 3, %r1;"), 0xffff_fffc);
    assert_eq!(word("mul.lo.s32 %r3, %r1, 1073741824;"), 0xc000_0000);
    assert_eq!(word("not.b32 %r3, %r1;"), 0xffff_fff8);
    assert_eq!(word("shl.b32 %r3, %r1, 30;"), 0xc000_0000);
    assert_eq!(word("shl.b32 %r3, %r1, 32;"), 0);
    assert_eq!(word("shr.u32 %r3, %r1, 1;"), 3);
    assert_eq!(word("div.u32 %r3, 100, %r1;"), 14);
    assert_eq!(word("rem.u32 %r3, 100, %r1;"), 2);
    assert_eq!(word("mov.u64 %rd5, 4294967303;\ncvt.u32.u64 %r3, %rd5;"), 7);
    assert_eq!(value("mul.wide.u32 %rd4, -1, -1;"), 0xffff_fffe_0000_0001);
    assert_eq!(value("sub.s64 %rd4, 1, 2;"), u64::MAX);
    assert_eq!(value("shr.u64 %rd4, -1, 60;"), 15);
    assert_eq!(value("min.u64 %rd4, 5, -1;"), 5);
}

#[test]
fn words_are_rotated() {
    let word = |operation: &str| {
        value(&format!(
            "mov.u32 %r4, -2147483647;\n{operation}\ncvt.u64.u32 %rd4, %r3;"
        ))
    };
    assert_eq!(word("shf.l.wrap.b32 %r3, %r4, %r4, 4;"), 0x18);
    assert_eq!(word("shf.r.wrap.b32 %r3, %r4, %r4, 4;"), 0x1800_0000);
    assert_eq!(word("shf.l.wrap.b32 %r3, %r4, %r1, 36;"), 0x78);
}

#[test]
fn comparisons_respect_signs() {
    let compare =
        |comparison: &str| value(&format!("setp.{comparison};\nselp.b64 %rd4, 1, 2, %p1;")) == 1;
    assert!(compare("lt.s32 %p1, -1, 1"));
    assert!(!compare("lt.u32 %p1, -1, 1"));
    assert!(compare("gt.u64 %p1, -1, 1"));
    assert!(!compare("gt.s64 %p1, -1, 1"));
    assert!(compare("ge.s32 %p1, 7, %r1") && compare("le.u32 %p1, %r1, 7"));
    assert!(compare("eq.s32 %p1, %r1, 7") && !compare("ne.s64 %p1, 7, 7"));
    let both = "setp.eq.s32 %p1, %r1, 7;\nsetp.eq.s32 %p2, %r1, 8;";
    let combined = |operation: &str| {
        value(&format!(
            "{both}\n{operation}.pred %p3, %p1, %p2;\nselp.b64 %rd4, 1, 0, %p3;"
        ))
    };
    assert_eq!(
        [combined("and"), combined("or"), combined("xor")],
        [0, 1, 1]
    );
}

#[test]
fn guards_and_branches_are_followed() {
    let count = "
        mov.u64 %rd4, 0;
        $loop:
        add.s64 %rd4, %rd4, 2;
        setp.lt.u64 %p1, %rd4, 9;
        @%p1 bra $loop;
        @!%p1 add.s64 %rd4, %rd4, 100;
        @%p1 add.s64 %rd4, %rd4, 1000;
    ";
    assert_eq!(value(count), 110);
}

#[test]
fn bytes_and_lists_are_loaded_and_stored() {
    let bytes = run(
        1,
        "
        mov.u32 %r3, 513;
        st.shared.u32 [second], %r3;
        ld.shared.u8 %r4, [second+1];
        ld.shared.u8 %rs1, [second];
        st.shared.v2.u32 [second+8], {%r4, %r1};
        ld.shared.v2.u32 {%r5, %r6}, [second+8];
        mul.wide.u16 %r7, %rs1, 256;
        add.s32 %r7, %r7, %r5;
        st.global.v2.u32 [%rd1], {%r6, %r7};
        ",
    );
    assert_eq!(bytes.unwrap(), [7, 0, 0, 0, 2, 1, 0, 0]);
}

#[test]
fn values_pass_through_shared_memory_across_barriers() {
    let swap = "
        mov.u64 %rd4, second;
        add.s64 %rd5, %rd4, %rd2;
        st.shared.u64 [%rd5], %rd2;
        bar.sync 0;
        xor.b64 %rd6, %rd2, 8;
        add.s64 %rd6, %rd4, %rd6;
        ld.shared.u64 %rd7, [%rd6];
        st.global.u64 [%rd3], %rd7;
    ";
    let bytes = run(4, swap).unwrap();
    let values: Vec<u8> = bytes.iter().copied().step_by(8).collect();
    assert_eq!(values, [8, 0, 24, 16]);
    assert_eq!(
        fault(4, &swap.replace("bar.sync 0;", "")),
        Fault::Uninitialized {
            address: 16,
            bytes: 8
        }
    );
}

#[test]
fn accesses_without_a_barrier_between_are_races() {
    let race = |other| Fault::SharedRace { address: 8, other };
    let write = "st.shared.u32 [second], %r1;\n";
    let read = "ld.shared.u32 %r3, [second];\n";
    assert_eq!(fault(2, write), race(0));
    let by_first = |then: &str| format!("setp.eq.s32 %p1, %r2, 0;\n@%p1 {write}{then}");
    assert_eq!(fault(2, &by_first(read)), race(0));
    let write_later = format!("bar.sync 0;\n{read}setp.eq.s32 %p2, %r2, 1;\n@%p2 {write}");
    assert_eq!(fault(2, &by_first(&write_later)), race(0));
    let store = "st.global.u64 [%rd3], %rd2;";
    let ordered = by_first(&format!(
        "bar.sync 0;\n{read}bar.sync 0;\n@%p1 {write}{store}"
    ));
    assert!(run(3, &ordered).is_ok());
}

#[test]
fn a_barrier_is_for_all_threads_of_a_block() {
    let some = "setp.lt.u32 %p1, %r2, 1;\n@%p1 bar.sync 0;";
    assert_eq!(fault(2, some), Fault::Divergence);
    let different =
        "setp.lt.u32 %p1, %r2, 1;\n@%p1 bra $a;\nbar.sync 0;\nbra $b;\n$a:\nbar.sync 0;\n$b:";
    assert_eq!(fault(2, different), Fault::Divergence);
}

#[test]
fn global_memory_is_written_once_and_not_read_then() {
    let write = "st.global.u64 [%rd1], %rd2;\n";
    let race = |write| move |fault: &Fault| matches!(fault, Fault::GlobalRace { write: found, .. } if *found == write);
    assert!(race(true)(&fault(2, write)));
    let read = format!("{write}ld.global.u8 %r3, [%rd1+7];");
    assert!(race(false)(&fault(1, &read)));
    let own = "st.global.u64 [%rd3], %rd2;";
    assert!(run_blocks(1, 2, own).is_ok());
    let error = run_blocks(2, 2, own).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Fault {
                block: 1,
                thread: 0,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn addresses_are_checked() {
    let out = 1 << 40;
    let outside = |write, address, bytes| Fault::OutOfBounds {
        write,
        address,
        bytes,
    };
    assert_eq!(
        fault(1, "st.global.u8 [%rd1+8], %r1;"),
        outside(true, out + 8, 1)
    );
    assert_eq!(
        fault(1, "ld.global.u32 %r3, [%rd1+-4];"),
        outside(false, out - 4, 4)
    );
    assert_eq!(fault(1, "ld.u8 %r3, [%rd2];"), outside(false, 0, 1));
    assert_eq!(
        fault(1, "ld.shared.u32 %r3, [second+512];"),
        outside(false, 520, 4)
    );
    let misaligned = |address, bytes| Fault::Misaligned { address, bytes };
    assert_eq!(
        fault(1, "st.global.u32 [%rd1+2], %r1;"),
        misaligned(out + 2, 4)
    );
    assert_eq!(
        fault(1, "st.global.v2.u32 [%rd1+4], {%r1, %r1};"),
        misaligned(out + 4, 8)
    );
    assert_eq!(fault(1, "st.shared.u32 [first+1], %r1;"), misaligned(1, 4));
    let unwritten = Fault::Uninitialized {
        address: out,
        bytes: 4,
    };
    assert_eq!(fault(1, "ld.global.u32 %r3, [%rd1];"), unwritten);
}

#[test]
fn inputs_cannot_be_written() {
    let module = module("st.global.u8 [%rd1], %r1;").unwrap();
    let mut memory = Buffers::new();
    let input = memory.input(0, [1, 2, 3]);
    let grid = Grid {
        blocks: 1,
        threads: 1,
    };
    let error = module
        .kernel("k")
        .unwrap()
        .run(grid, &[input, 0], &mut memory);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("writes 1 bytes out of bounds")
    );
}

#[test]
fn what_has_no_result_is_a_fault() {
    assert_eq!(fault(1, "div.u32 %r3, %r1, 0;"), Fault::DivisionByZero);
    assert_eq!(fault(1, "rem.u64 %rd4, %rd1, %rd2;"), Fault::DivisionByZero);
    assert_eq!(fault(1, "$end:\nbra $end;"), Fault::Endless);
}

#[test]
fn a_fault_names_its_place() {
    let error = run(2, "setp.eq.s32 %p1, %r2, 1;\n@%p1 div.u32 %r3, %r1, 0;").unwrap_err();
    let text = "k, block 0, line 23: thread 1 divides by zero: `@%p1 div.u32 %r3, %r1, 0;`";
    assert_eq!(error.to_string(), text);
}

#[test]
fn unknown_statements_are_refused_with_their_text() {
    for (statement, problem) in [
        ("popc.b32 %r3, %r1;", "unknown instruction"),
        ("bar.sync 1;", "unknown instruction"),
        ("div.s32 %r3, %r1, 2;", "unknown instruction"),
        ("min.s64 %rd4, %rd1, 2;", "unknown instruction"),
        ("atom.global.add.u32 %r3, [%rd1], 1;", "unknown instruction"),
        (
            "ld.volatile.global.u32 %r3, [%rd1];",
            "unknown kind of access",
        ),
        ("ld.local.u32 %r3, [%rd1];", "unknown kind of access"),
        (
            "st.global.v4.u64 [%rd1], {%rd1, %rd1, %rd1, %rd1};",
            "unknown kind of access",
        ),
        ("ld.global.v2.u32 {%r1}, [%rd1];", "unknown kind of access"),
        ("ld.param.u32 %r3, [out];", "another width"),
        ("ld.param.u64 %rd4, [in];", "unknown parameter"),
        ("add.s32 %r3, %rd1, 1;", "another width"),
        ("add.s32 %r8, %r1, 1;", "unknown register"),
        ("add.f32 %r3, %r1, %r1;", "unknown instruction"),
        ("mov.u32 %r3, %tid.y;", "unknown register"),
        ("mov.u32 %r3, third;", "unknown operand"),
        ("bra $nowhere;", "unknown label"),
        (".local .b8 memory[4];", "unknown instruction"),
        ("add.s32 %r3, %r1, 1", "one statement a line"),
    ] {
        let error = module(statement).unwrap_err();
        assert!(
            matches!(&error, Error::Syntax { line: 22, text, .. } if text == statement),
            "{error}"
        );
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn registers_are_written_before_they_are_read_on_every_way() {
    let undefined = |statements: &str| match module(statements) {
        Err(Error::Syntax { text, problem, .. }) => {
            assert_eq!(problem, "a register may be read before it is written");
            Some(text)
        }
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    };
    let read = "add.s32 %r4, %r1, %r3;";
    assert_eq!(undefined(read).as_deref(), Some(read));
    assert_eq!(undefined("@%p1 ret;").as_deref(), Some("@%p1 ret;"));
    let compare = "setp.eq.s32 %p1, %r1, 7;\n";
    let one_way = format!("{compare}@%p1 bra $a;\nmov.u32 %r3, 1;\n$a:\n{read}");
    assert_eq!(undefined(&one_way).as_deref(), Some(read));
    let guarded = format!("{compare}@%p1 mov.u32 %r3, 1;\n{read}");
    assert_eq!(undefined(&guarded).as_deref(), Some(read));
    let both_ways = format!(
        "{compare}@%p1 bra $a;\nmov.u32 %r3, 1;\nbra $b;\n$a:\nmov.u32 %r3, 2;\n$b:\n{read}"
    );
    assert_eq!(undefined(&both_ways), None);
    // Written in the first round, before the loop reads it.
    let in_loop = format!("$a:\nmov.u32 %r3, 1;\n{read}\n{compare}@%p1 bra $a;");
    assert_eq!(undefined(&in_loop), None);
    let after_first_round = format!("$a:\n{read}\nmov.u32 %r3, 1;\n{compare}@%p1 bra $a;");
    assert_eq!(undefined(&after_first_round).as_deref(), Some(read));
}

#[test]
fn some_blocks_of_a_launch_can_be_run() {
    let module = module("mov.u32 %r3, %ctaid.x;\nst.global.u32 [%rd1], %r3;").unwrap();
    let mut memory = Buffers::new();
    let out = memory.output(0, 4);
    let grid = Grid {
        blocks: 2_000_000_000,
        threads: 1,
    };
    let kernel = module.kernel("k").unwrap();
    kernel
        .run_blocks(grid, 1_999_999_999..u32::MAX, &[out, 0], &mut memory)
        .unwrap();
    assert_eq!(
        memory.written(out),
        Some(&1_999_999_999u32.to_le_bytes()[..])
    );
}

#[test]
fn a_launch_must_fit_the_kernel() {
    let module = module("").unwrap();
    let kernel = module.kernel("k").unwrap();
    assert_eq!(kernel.name(), "k");
    assert_eq!(kernel.parameter_bytes().collect::<Vec<_>>(), [8, 4]);
    let launch = |blocks, threads, params: &[u64]| {
        let ran = kernel.run(Grid { blocks, threads }, params, &mut Buffers::new());
        ran.map_err(|error| error.to_string())
    };
    assert_eq!(launch(1, 128, &[0, 0]), Ok(()));
    assert!(launch(1, 129, &[0, 0]).unwrap_err().contains("of 1 to 128"));
    assert!(launch(0, 1, &[0, 0]).unwrap_err().contains("0 blocks"));
    assert!(
        launch(1 << 31, 1, &[0, 0])
            .unwrap_err()
            .contains("expected 1 to 2147483647")
    );
    assert!(
        launch(1, 1, &[0])
            .unwrap_err()
            .contains("1 parameters, expected 2")
    );
    assert!(
        launch(1, 1, &[0, 1 << 32])
            .unwrap_err()
            .contains("expected 4 bytes")
    );
    let unknown = module.kernel("l").unwrap_err().to_string();
    assert_eq!(unknown, "no kernel is named l; the file has k");
}
