//! Memory of tensors.

use std::sync::Arc;

use half::bf16;

use crate::caching_allocator::CachingAllocator;
use crate::element::Element;
use crate::memory::Memory;

/// Memory of a tensor. Dropping it frees the memory to the backend that allocated it.
#[derive(Debug)]
pub struct Buffer {
    /// Empty only while the buffer is dropped.
    memory: Memory,
    allocator: Arc<CachingAllocator>,
}

impl Buffer {
    /// A buffer of `memory`, which `allocator` allocated.
    pub(crate) fn new(memory: Memory, allocator: Arc<CachingAllocator>) -> Self {
        Self { memory, allocator }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.allocator.free(std::mem::replace(&mut self.memory, Memory::empty()));
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
                match &buffer.memory {
                    Memory::$variant(a) => a.as_slice().expect("buffers have no gaps"),
                    _ => panic!("the type of a buffer is that of its view"),
                }
            }

            fn slice_mut(buffer: &mut Buffer) -> &mut [Self] {
                match &mut buffer.memory {
                    Memory::$variant(a) => a.as_slice_mut().expect("buffers have no gaps"),
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
