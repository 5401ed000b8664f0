//! The paper's presets, compared with a table of all values.

use toml::Table;
use transdiff_core::models::transdiff::{Mode, Size, TransDiffConfig};
use transdiff_core::train::TrainConfig;
use transdiff_run::DataFacts;
use transdiff_run::presets;
use transdiff_run::settings::{Fit, RunConfig};

fn preset(name: &str) -> RunConfig {
    presets::layers(name).unwrap().resolve(name).unwrap()
}

/// Keys with their section, and their values as TOML.
fn flat(table: &Table) -> Vec<(String, String)> {
    let sections = table.iter().filter_map(|(section, keys)| Some((section, keys.as_table()?)));
    sections
        .flat_map(|(section, keys)| {
            keys.iter().map(move |(key, value)| (format!("{section}.{key}"), value.to_string()))
        })
        .collect()
}

#[test]
fn every_value_of_a_paper_preset_is_in_the_table() {
    let table: Table = include_str!("paper_presets.toml").parse().unwrap();
    for name in presets::NAMES.into_iter().filter(|name| name.starts_with("paper-")) {
        let (size, recipe) = name["paper-".len()..].split_once('-').unwrap();
        let mut expected: Vec<_> =
            ["all", size, recipe].iter().flat_map(|part| flat(table[*part].as_table().unwrap())).collect();
        expected.sort();
        let settings = Table::try_from(preset(name)).unwrap();
        assert_eq!(flat(&settings), expected, "{name}");
    }
}

#[test]
fn distillations_have_the_settings_of_the_library() {
    let data = DataFacts {
        pictures: 1200,
        classes: 10,
        latent: [4, 4, 4],
        codec: "patch:2".to_owned(),
        size: 8,
        channels: 1,
        fit: Fit::Pad,
        flip: false,
    };
    let config = preset("distill").complete(&data).unwrap();
    let settings = config.train_config(1200, 1, true).unwrap();
    let settings = settings.with_objective(config.consistency_objective().unwrap());
    assert_eq!(settings, TrainConfig::distillation(settings.batch, 250));
}

#[test]
fn paper_presets_are_the_published_models() {
    for (size, published) in [("base", Size::Base), ("large", Size::Large), ("huge", Size::Huge)] {
        for (recipe, side, mode) in [
            ("1step", 256, Mode::OneStep),
            ("mrar", 256, Mode::MultiReference { groups: 4 }),
            ("512", 512, Mode::OneStep),
        ] {
            let data = DataFacts {
                pictures: 1_281_167,
                classes: 1000,
                latent: [16, side / 16, side / 16],
                codec: "kl16.ckpt".to_owned(),
                size: side,
                channels: 3,
                fit: Fit::Crop,
                flip: true,
            };
            let config = preset(&format!("paper-{size}-{recipe}")).complete(&data).unwrap();
            let expected = TransDiffConfig::published(published, side, mode).unwrap();
            assert_eq!(config.transdiff_config().unwrap(), expected, "{size} {recipe}");
            assert_eq!(config.samples_per_step(1).unwrap(), 2048);
        }
    }
}

/// 1,281,167 pictures in steps of 2048 samples.
#[test]
fn paper_schedules_have_the_published_lengths_and_rates() {
    for (recipe, total, warmup, peak) in
        [("1step", 500_455, 62_556, 8e-4), ("mrar", 25_022, 6_255, 5e-5), ("512", 93_835, 6_255, 1e-4)]
    {
        let lr = preset(&format!("paper-large-{recipe}")).lr_schedule(1_281_167, 1).unwrap();
        assert_eq!((lr.total, lr.warmup, lr.peak), (total, warmup, peak), "{recipe}");
    }
}
