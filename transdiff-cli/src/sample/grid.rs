//! Many pictures in one.

use std::path::Path;

use crate::failure::Result;
use crate::picture::Picture;

/// Pixels around and between pictures.
const GAP: usize = 4;
/// Rows and columns at most: who wants to see more has the pictures themselves.
const MOST: usize = 16;
/// Smaller pictures are enlarged, by repeating pixels: the eye should see the values themselves.
const SMALLEST: usize = 48;

/// A row a class, a column a seed; of a single class, about as many rows as columns.
pub struct Grid {
    rows: usize,
    columns: usize,
    /// Pictures of a class.
    seeds: usize,
    single: bool,
    canvas: Option<Picture>,
}

impl Grid {
    /// A grid for `images` pictures, `seeds` of each class.
    pub fn new(images: usize, seeds: usize) -> Self {
        let (single, classes) = (images == seeds, images / seeds.max(1));
        let shown = images.min(MOST * MOST);
        let square = (shown.isqrt() + usize::from(shown.isqrt().pow(2) < shown)).max(1);
        let (rows, columns) =
            if single { (shown.div_ceil(square), square) } else { (classes.min(MOST), seeds.min(MOST)) };
        Self { rows, columns, seeds, single, canvas: None }
    }

    /// Row and column of a picture, if it is shown.
    fn cell(&self, index: usize) -> Option<(usize, usize)> {
        let across = if self.single { self.columns } else { self.seeds };
        let (row, column) = (index / across, index % across);
        (row < self.rows && column < self.columns).then_some((row, column))
    }

    /// Puts the picture of the image `index` in its place; all pictures are of one size.
    pub fn add(&mut self, index: usize, picture: &Picture) -> Result<()> {
        let Some((row, column)) = self.cell(index) else { return Ok(()) };
        let zoom = SMALLEST.div_ceil(picture.width.max(1)).max(1);
        let (height, width) = (zoom * picture.height + GAP, zoom * picture.width + GAP);
        let canvas = match &mut self.canvas {
            Some(canvas) => canvas,
            empty => {
                let size = (self.rows * height + GAP, self.columns * width + GAP);
                empty.insert(Picture::white(size.0, size.1, picture.color)?)
            }
        };
        canvas.paste(picture, zoom, GAP + row * height, GAP + column * width);
        Ok(())
    }

    /// Writes what was added; nothing if there is nothing.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.canvas.as_ref().map_or(Ok(()), |canvas| canvas.write(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows and columns.
    fn size(images: usize, seeds: usize) -> (usize, usize) {
        let grid = Grid::new(images, seeds);
        (grid.rows, grid.columns)
    }

    fn cells<const N: usize>(images: usize, seeds: usize, of: [usize; N]) -> [Option<(usize, usize)>; N] {
        of.map(|index| Grid::new(images, seeds).cell(index))
    }

    #[test]
    fn every_picture_has_its_cell() {
        assert_eq!(
            [(1, 1), (5, 5), (6, 2), (3, 1)].map(|(n, s)| size(n, s)),
            [(1, 1), (2, 3), (3, 2), (3, 1)]
        );
        assert_eq!(cells(5, 5, [0, 1, 4]), [Some((0, 0)), Some((0, 1)), Some((1, 1))]);
        assert_eq!(cells(6, 2, [0, 1, 5]), [Some((0, 0)), Some((0, 1)), Some((2, 1))]);
        assert_eq!(cells(3, 1, [0, 1, 2]), [Some((0, 0)), Some((1, 0)), Some((2, 0))]);
    }

    #[test]
    fn what_is_too_much_is_left_out() {
        assert_eq!([(1000, 1000), (40, 20), (40, 2)].map(|(n, s)| size(n, s)), [(16, 16), (2, 16), (16, 2)]);
        assert_eq!(cells(1000, 1000, [255, 256]), [Some((15, 15)), None]);
        assert_eq!(cells(40, 20, [15, 16, 20]), [Some((0, 15)), None, Some((1, 0))]);
        assert_eq!(cells(40, 2, [31, 32]), [Some((15, 1)), None]);
    }
}
