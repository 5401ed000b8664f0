//! Memory of tensors.

use std::sync::{Arc, OnceLock};

use half::bf16;
use transdiff_core::DType;

use crate::caching_allocator::CachingAllocator;
use crate::element::Element;
use crate::int8_panels::Int8Panels;
use crate::memory::Memory;

/// Memory of a tensor. Dropping it frees the memory to the backend that allocated it.
#[derive(Debug)]
pub struct Buffer {
    /// The elements. Those of a quantised weight are computed when they are first read, which products do not.
    plain: OnceLock<Memory>,
    /// A quantised weight, whose elements have not been written since.
    quantized: Option<Box<Quantized>>,
    allocator: Arc<CachingAllocator>,
}

/// A quantised weight, and the type of its elements.
#[derive(Debug)]
struct Quantized {
    panels: Int8Panels,
    dtype: DType,
}

impl Buffer {
    /// A buffer of `memory`, which `allocator` allocated.
    pub(crate) fn new(memory: Memory, allocator: Arc<CachingAllocator>) -> Self {
        Self { plain: OnceLock::from(memory), quantized: None, allocator }
    }

    /// A quantised weight, row-major [outputs, inputs], with elements of type `dtype`.
    pub(crate) fn quantized(panels: Int8Panels, dtype: DType, allocator: Arc<CachingAllocator>) -> Self {
        Self { plain: OnceLock::new(), quantized: Some(Box::new(Quantized { panels, dtype })), allocator }
    }

    /// The quantised weight, if the buffer is one.
    pub(crate) fn int8(&self) -> Option<&Int8Panels> {
        self.quantized.as_ref().map(|quantized| &quantized.panels)
    }

    fn plain(&self) -> &Memory {
        self.plain.get_or_init(|| {
            let Quantized { panels, dtype } = &**self.quantized.as_ref().expect("a buffer has elements");
            let len = panels.shape().iter().product();
            let memory = self.allocator.alloc(*dtype, len, || Memory::zeros(*dtype, len));
            let mut memory = memory.expect("memory for the elements of a quantised weight");
            memory.fill_with(|i| panels.element(i));
            memory
        })
    }

    fn plain_mut(&mut self) -> &mut Memory {
        self.plain();
        self.quantized = None;
        self.plain.get_mut().expect("the elements are there")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.plain.take() {
            self.allocator.free(memory);
        }
    }
}

/// An element type that buffers hold.
pub(crate) trait Stored: Element {
    /// All elements of a buffer of this type.
    fn slice(buffer: &Buffer) -> &[Self];
    /// All elements of a buffer of this type, for writing.
    fn slice_mut(buffer: &mut Buffer) -> &mut [Self];
}

macro_rules! stored {
    ($T:ty, $variant:ident) => {
        impl Stored for $T {
            fn slice(buffer: &Buffer) -> &[Self] {
                match buffer.plain() {
                    Memory::$variant(v) => v,
                    _ => panic!("the type of a buffer is that of its view"),
                }
            }

            fn slice_mut(buffer: &mut Buffer) -> &mut [Self] {
                match buffer.plain_mut() {
                    Memory::$variant(v) => v,
                    _ => panic!("the type of a buffer is that of its view"),
                }
            }
        }
    };
}

stored!(f32, F32);
stored!(f64, F64);
stored!(bf16, BF16);
stored!(i32, I32);
