//! Operations on images, each a function in the file of its family.

use super::{In, Out, Reference, conv, group_norm, pool};
use crate::Result;
use crate::backend::{ConvArgs, ImageOps, Pooling, Windows};

impl ImageOps for Reference {
    fn images_at_once(&self, _: usize) -> usize {
        1
    }

    fn group_norm(
        &self,
        x: In<'_>,
        affine: (In<'_>, In<'_>),
        groups: usize,
        eps: f64,
        scale_shift: Out<'_>,
    ) -> Result<()> {
        group_norm::forward(x, affine, groups, eps, scale_shift);
        Ok(())
    }

    fn conv2d(&self, args: ConvArgs<'_, Self>, y: Out<'_>) -> Result<()> {
        conv::forward(args, y);
        Ok(())
    }

    fn pool2d(&self, x: In<'_>, pooling: Pooling, windows: Windows, y: Out<'_>) -> Result<()> {
        pool::forward(x, pooling, windows, y);
        Ok(())
    }
}
