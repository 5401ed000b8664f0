//! Layouts against a naive model: a shape and an explicit position per element, in row-major order.

use proptest::prelude::*;
use transdiff_core::Layout;
use transdiff_core::layout::row_major_strides;

#[derive(Clone, Debug)]
struct Model {
    shape: Vec<usize>,
    positions: Vec<usize>,
}

impl Model {
    /// Returns the model whose element at `index` is this one's at `f(index)`.
    fn remap(&self, shape: Vec<usize>, f: impl Fn(&[usize]) -> Vec<usize>) -> Self {
        let at = |i: usize| self.positions[number(&f(&index(i, &shape)), &self.shape)];
        Self { positions: (0..shape.iter().product()).map(at).collect(), shape }
    }

    /// Returns whether one stride per axis reaches every element.
    fn has_strides(&self) -> bool {
        let Some(&first) = self.positions.first() else { return true };
        let step = |axis: usize| {
            let unit: Vec<usize> = (0..self.shape.len()).map(|a| usize::from(a == axis)).collect();
            if self.shape[axis] == 1 { 0 } else { self.positions[number(&unit, &self.shape)] - first }
        };
        let steps: Vec<usize> = (0..self.shape.len()).map(step).collect();
        self.positions.iter().enumerate().all(|(i, &p)| {
            p == first + index(i, &self.shape).iter().zip(&steps).map(|(i, s)| i * s).sum::<usize>()
        })
    }
}

fn index(number: usize, shape: &[usize]) -> Vec<usize> {
    row_major_strides(shape).iter().zip(shape).map(|(s, n)| number / s % n).collect()
}

fn number(index: &[usize], shape: &[usize]) -> usize {
    index.iter().zip(row_major_strides(shape)).map(|(i, s)| i * s).sum()
}

/// Applies the view operation `choice` with arguments drawn from `draws`; `None` if it is not applicable.
fn step(layout: &Layout, model: &Model, choice: u8, draws: &[usize; 8]) -> Option<(Layout, Model)> {
    let (shape, rank) = (&model.shape, model.shape.len());
    match choice {
        0 => {
            let mut axes: Vec<usize> = (0..rank).collect();
            axes.sort_by_key(|&a| draws[a]);
            let permuted = axes.iter().map(|&a| shape[a]).collect();
            let back = |i: &[usize]| {
                let mut out = vec![0; rank];
                axes.iter().zip(i).for_each(|(&a, &i)| out[a] = i);
                out
            };
            Some((layout.permute(&axes).unwrap(), model.remap(permuted, back)))
        }
        1 if rank > 0 => {
            let axis = draws[0] % rank;
            let start = draws[1] % (shape[axis] + 1);
            let len = draws[2] % (shape[axis] - start + 1);
            let mut narrow = shape.clone();
            narrow[axis] = len;
            let moved = |i: &[usize]| {
                i.iter().enumerate().map(|(a, i)| i + if a == axis { start } else { 0 }).collect()
            };
            Some((layout.narrow(axis, start, len).unwrap(), model.remap(narrow, moved)))
        }
        2 if rank < 5 => {
            let added = draws[0] % 2;
            let mut wide = vec![draws[1] % 3; added];
            wide.extend(shape.iter().zip(&draws[2..]).map(|(&n, d)| if n == 1 { d % 4 } else { n }));
            let repeated = |i: &[usize]| i[added..].iter().zip(shape).map(|(&i, &n)| i.min(n - 1)).collect();
            Some((layout.broadcast_to(&wide).unwrap(), model.remap(wide, repeated)))
        }
        _ => {
            // A factorisation of the number of elements; some factors are 1.
            let mut rest = layout.numel();
            let mut cut: Vec<usize> = Vec::new();
            for d in &draws[..4] {
                let factor =
                    (1..=rest.min(2 + d % 6)).rev().find(|f| rest.is_multiple_of(*f)).unwrap_or(rest);
                cut.push(factor);
                rest = rest.checked_div(factor).unwrap_or(1);
            }
            cut.push(rest);
            let model = Model { shape: cut.clone(), ..model.clone() };
            let view = layout.reshape(&cut).unwrap();
            assert_eq!(view.is_some(), model.has_strides(), "{layout:?} as {cut:?}");
            Some((view?, model))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn views_match_the_model(
        shape in prop::collection::vec(0usize..6, 0..5),
        steps in prop::collection::vec((0u8..4, prop::array::uniform8(0usize..1000)), 0..7),
    ) {
        let mut layout = Layout::contiguous(&shape);
        let buffer = layout.numel();
        let mut model = Model { shape, positions: (0..buffer).collect() };
        for (choice, draws) in &steps {
            if let Some(next) = step(&layout, &model, *choice, draws) {
                (layout, model) = next;
            }
            prop_assert_eq!(layout.shape(), &model.shape[..]);
            let mut positions = Vec::new();
            layout.for_each_position(|p| positions.push(p));
            prop_assert_eq!(&positions, &model.positions);
            prop_assert_eq!(layout.numel(), positions.len());
            prop_assert!(layout.end() <= buffer, "{:?} reaches past {}", layout, buffer);
            if let Some(last) = positions.iter().max() {
                prop_assert_eq!(layout.end(), last + 1);
            }
            let in_order = positions.iter().enumerate().all(|(i, &p)| p == layout.offset() + i);
            prop_assert_eq!(layout.is_contiguous(), in_order);
        }
    }

    #[test]
    fn invalid_arguments_are_rejected(shape in prop::collection::vec(0usize..6, 1..5), axis in 0usize..6) {
        let layout = Layout::contiguous(&shape);
        let rank = shape.len();
        let size = shape.get(axis).copied().unwrap_or(0);
        prop_assert!(layout.narrow(axis, 1, size.max(1)).is_err());
        prop_assert!(layout.narrow(axis, usize::MAX, 2).is_err());
        prop_assert!(layout.permute(&vec![0; rank + 1]).is_err());
        prop_assert!(layout.permute(&vec![axis; rank.max(2)]).is_err());
        prop_assert!(layout.broadcast_to(&shape[1..]).is_err());
        prop_assert!(layout.reshape(&[layout.numel() + 1]).is_err());
    }
}
