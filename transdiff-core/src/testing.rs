//! Help for tests of backends: sentinels around every output.
//!
//! Inside [`with_margins`] each new tensor gets a margin of [`SENTINEL`]s before and after its elements;
//! [`margins_intact`] says whether a kernel wrote past them.

use std::cell::Cell;

use crate::backend::{Backend, View};
use crate::{Layout, Result, Tensor};

/// Value in the margins; exact in every type.
pub const SENTINEL: f64 = 1984.0;

thread_local! {
    static MARGIN: Cell<usize> = const { Cell::new(0) };
}

pub(crate) fn margin() -> usize {
    MARGIN.get()
}

/// Runs `f`; tensors that operations make in it, on this thread, have margins of `width` elements. Their elements are
/// as aligned as the width is: kernels that read vectors take another path where they are not.
pub fn with_margins<T>(width: usize, f: impl FnOnce() -> T) -> T {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            MARGIN.set(self.0);
        }
    }
    let _restore = Restore(MARGIN.replace(width));
    f()
}

/// Whether the margins around `tensor`, an output made in [`with_margins`], still hold their sentinels.
pub fn margins_intact<B: Backend>(tensor: &Tensor<B>) -> Result<bool> {
    let (start, width) = (tensor.layout().offset(), margin());
    for at in [start - width, start + tensor.numel()] {
        let layout = Layout::contiguous(&[width]).shifted(at);
        let margin = tensor.backend().to_host(View { layout: &layout, ..tensor.view() })?;
        if margin.to_f64().iter().any(|&x| x != SENTINEL) {
            return Ok(false);
        }
    }
    Ok(true)
}
