//! Libraries that are opened at run time.

/// Declares `Functions`, the functions of a library, and how to open it.
macro_rules! functions {
    ($library:literal; $($field:ident: $symbol:literal ($($argument:ty),*) -> $result:ty;)*) => {
        #[doc = concat!("Functions of ", $library, ".")]
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            /// Opens the library `name`; fails with a message if there is none.
            pub(super) fn open(name: &str) -> Result<Self, String> {
                // SAFETY: NVIDIA's library, which may be opened at any time.
                let library = unsafe { libloading::Library::new(name) }.map_err(|e| e.to_string())?;
                // Never closed: callbacks that it registers for the end of threads would be left dangling, and opening it
                // again takes as long as the first time.
                let library = std::mem::ManuallyDrop::new(library);
                let find = || -> Result<Self, libloading::Error> {
                    // SAFETY: these are the signatures of the functions of these names.
                    unsafe { Ok(Self { $($field: *library.get(concat!($symbol, "\0").as_bytes())?,)* }) }
                };
                find().map_err(|e| format!("{name}: {e}"))
            }
        }
    };
}

pub(crate) use functions;
