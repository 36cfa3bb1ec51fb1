//! Every scenario of whole modules in its short form.

use torchcache_faults::{children, survives};
use torchcache_soak::MODULES;

macro_rules! survived {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            children::set_program(env!("CARGO_BIN_EXE_soak"));
            survives(&MODULES, stringify!($name));
        })*

        #[test]
        fn no_scenario_is_left_out() {
            let tested = [$(stringify!($name)),*];
            let scenarios = MODULES.scenarios.iter().map(|scenario| scenario.name);
            assert_eq!(tested.as_slice(), scenarios.collect::<Vec<_>>());
        }
    };
}

survived! { threads panics foreign ends }
