//! Every scenario of the store in its short form.

use torchcache_faults::{STORE, children, survives};

macro_rules! survived {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            children::set_program(env!("CARGO_BIN_EXE_faults"));
            survives(&STORE, stringify!($name));
        })*

        #[test]
        fn no_scenario_is_left_out() {
            let tested = [$(stringify!($name)),*];
            let scenarios = STORE.scenarios.iter().map(|scenario| scenario.name);
            assert_eq!(tested.as_slice(), scenarios.collect::<Vec<_>>());
        }
    };
}

survived! {
    killed power full failing directory damaged lies versions beside writer ending hostile clocks
}
