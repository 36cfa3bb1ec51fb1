//! Every scenario in its short form.

use torchcache_faults::{SCENARIOS, children};

macro_rules! survives {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            survives(stringify!($name));
        })*

        #[test]
        fn no_scenario_is_left_out() {
            let tested = [$(stringify!($name)),*];
            let scenarios: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            assert_eq!(tested.as_slice(), scenarios);
        }
    };
}

survives! { killed power full failing directory damaged lies versions beside writer ending hostile clocks }

fn survives(name: &str) {
    children::set_program(env!("CARGO_BIN_EXE_soak"));
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.expect("a scenario of this name");
    let tally = (scenario.run)(&scenario.short(1));
    println!("{name}: {}", tally.cells().join(", "));
    if let Err(failures) = tally.verdict() {
        panic!("{failures}");
    }
}
