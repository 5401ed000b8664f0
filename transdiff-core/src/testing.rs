//! Help for tests of backends: sentinels around every output.
//!
//! Inside [`with_margins`] each new tensor gets a margin of [`SENTINEL`]s before and after its elements;
//! [`margins_intact`] says whether a kernel wrote past them.

use std::cell::Cell;

use crate::backend::{Backend, View};
use crate::{Layout, Result, Tensor};

/// Value in the margins; exact in every type.
pub const SENTINEL: f64 = 1984.0;

/// Width of a margin, in elements.
const MARGIN: usize = 37;

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn margin() -> usize {
    if ACTIVE.get() { MARGIN } else { 0 }
}

/// Runs `f`; tensors that operations make in it, on this thread, have margins.
pub fn with_margins<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(true));
    f()
}

/// Whether the margins around `tensor`, an output made in [`with_margins`], still hold their sentinels.
pub fn margins_intact<B: Backend>(tensor: &Tensor<B>) -> Result<bool> {
    let start = tensor.layout().offset();
    for at in [start - MARGIN, start + tensor.numel()] {
        let layout = Layout::contiguous(&[MARGIN]).shifted(at);
        let margin = tensor.backend().to_host(View { layout: &layout, ..tensor.view() })?;
        if margin.to_f64().iter().any(|&x| x != SENTINEL) {
            return Ok(false);
        }
    }
    Ok(true)
}
