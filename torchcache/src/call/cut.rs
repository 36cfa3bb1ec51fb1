//! Cut batches: forwards over some rows of a batch, which the program itself would not run.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::tensor::raw::ThreadSettings;

/// Runs a body on a cut batch. After a panic the settings of the thread are as before.
///
/// # Errors
///
/// The message of the panic.
pub(crate) fn attempt<O>(body: impl FnOnce() -> O) -> Result<O, String> {
    let settings = ThreadSettings::read();
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| {
        settings.restore();
        first_line(&*payload)
    })
}

/// The first line of a panic's message. Those of tch have the lines of libtorch's error escaped.
fn first_line(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    let line = text.lines().next().unwrap_or_default();
    line.split("\\n").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_restores_the_settings_of_the_thread() {
        let before = ThreadSettings::read();
        let failed = attempt(|| tch::no_grad(|| panic!("one\ntwo {}", 3)));
        assert_eq!(failed, Err::<(), _>("one".to_owned()));
        assert_eq!(ThreadSettings::read(), before);
        let refused = attempt(|| tch::Tensor::zeros([4], tch::kind::FLOAT_CPU).view([3]));
        assert!(
            refused
                .unwrap_err()
                .ends_with("invalid for input of size 4")
        );
        let _guard = tch::no_grad_guard();
        let before = ThreadSettings::read();
        assert!(attempt(|| tch::with_grad(|| panic!("with gradients"))).is_err());
        assert_eq!(ThreadSettings::read(), before);
        assert_eq!(attempt(|| 7), Ok(7));
    }
}
