//! The figures as a picture: for each row, where the mount, the other directories of the run and the published
//! figures of other systems lie on a logarithmic scale whose 1 is the local directory in the same run. A line is the
//! range of the rounds, a tick the bar. To the right is always better: times are turned round.

use super::{LOCAL, MOUNT, Outcome, make_folder_of, present, ratios, spread};
use crate::error::{At, Error, Result};
use crate::peers::Peers;
use crate::rows::{Bar, ROWS, Row};
use crate::stats::Spread;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::fs;
use std::path::Path;

const WIDTH_PX: u32 = 1100;
const ROW_PX: u32 = 26;
/// Above the rows and below them: title, legend, scale.
const FRAME_PX: u32 = 110;
const HEAD_PX: u32 = 56;
const LABELS_PX: u32 = 350;
/// Of the scale, unless a figure lies outside.
const RATIO_MIN: f64 = 0.005;
const RATIO_MAX: f64 = 2.0;

const OURS: RGBColor = RGBColor(200, 30, 60);
const ANOTHER: RGBColor = RGBColor(30, 90, 200);
const PUBLISHED: [RGBColor; 3] =
    [RGBColor(230, 150, 20), RGBColor(60, 150, 70), RGBColor(130, 90, 180)];

/// A dot, with the range of the rounds where there is one.
struct Dot {
    ratio: Spread,
    color: RGBColor,
    is_published: bool,
}

/// Draws the run into `path`, whose folder is made when it is not there.
pub(crate) fn write(path: &Path, outcome: &Outcome, peers: &Peers) -> Result<()> {
    let text = svg(outcome, peers).map_err(|error| Error::wrong("draw the plot", error))?;
    make_folder_of(path)?;
    fs::write(path, text).at("write", path)
}

fn svg(outcome: &Outcome, peers: &Peers) -> std::result::Result<String, String> {
    let rows: Vec<&Row> = ROWS
        .iter()
        .filter(|row| present(outcome, row) && spread(outcome, row, LOCAL).is_some())
        .collect();
    let row_count = u32::try_from(rows.len()).expect("rows are a constant list");
    let mut text = String::new();
    {
        let size = (WIDTH_PX, FRAME_PX + ROW_PX * row_count);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area, outcome, peers, &rows).map_err(|error| error.to_string())?;
        area.present().map_err(|error| error.to_string())?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(area: &Area<'_>, outcome: &Outcome, peers: &Peers, rows: &[&Row]) -> Drawn {
    area.fill(&WHITE)?;
    let dots: Vec<Vec<Dot>> = rows.iter().map(|row| dots(outcome, peers, row)).collect();
    let all = || dots.iter().flatten();
    let min = all().map(|dot| dot.ratio.min).fold(RATIO_MIN, f64::min);
    let max = all().map(|dot| dot.ratio.max).fold(RATIO_MAX, f64::max);
    let row_count = rows.len() as f64;
    let local = &outcome.places[LOCAL];
    let title = format!(
        "{}, as a part of {} ({}) in the same run; commit {}, {}",
        outcome.places[MOUNT].label,
        local.label,
        local.file_system,
        outcome.host.commit,
        outcome.date
    );
    area.draw(&Text::new(title, (12, 10), ("sans-serif", 15).into_font()))?;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_top(HEAD_PX)
        .margin_left(LABELS_PX)
        .x_label_area_size(32)
        .build_cartesian_2d((min * 0.9..max * 1.1).log_scale(), 0.0..row_count)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_labels(12).draw()?;
    chart.draw_series([PathElement::new(
        vec![(1.0, 0.0), (1.0, row_count)],
        BLACK.stroke_width(2),
    )])?;
    for (index, (row, dots)) in rows.iter().zip(&dots).enumerate() {
        // The first row is the topmost.
        let y = row_count - index as f64 - 0.5;
        let (_, y_px) = chart.backend_coord(&(1.0, y));
        let style = ("sans-serif", 13).into_font().color(&BLACK);
        let style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Right,
            plotters::style::text_anchor::VPos::Center,
        ));
        let left = i32::try_from(LABELS_PX).expect("a small constant") - 8;
        area.draw(&Text::new(row.title, (left, y_px), style))?;
        if let Some(Bar::OfLocal(part)) = row.bar {
            let tick = vec![(part, y - 0.4), (part, y + 0.4)];
            chart.draw_series([PathElement::new(tick, BLACK.mix(0.5).stroke_width(3))])?;
        }
        for dot in dots {
            let Spread { median, min, max } = dot.ratio;
            if dot.is_published {
                chart.draw_series([TriangleMarker::new((median, y), 4, dot.color.filled())])?;
            } else {
                let range = vec![(min, y), (max, y)];
                chart.draw_series([PathElement::new(range, dot.color.stroke_width(2))])?;
                chart.draw_series([Circle::new((median, y), 5, dot.color.filled())])?;
            }
        }
    }
    legend(area, outcome, peers)
}

/// Names and colours, in a line below the title.
fn legend(area: &Area<'_>, outcome: &Outcome, peers: &Peers) -> Drawn {
    let names = &peers.names;
    let mut entries = vec![(outcome.places[MOUNT].label.clone(), OURS, false)];
    let more = outcome.places.iter().skip(LOCAL + 1);
    entries.extend(more.map(|place| (place.label.clone(), ANOTHER, false)));
    let published = [&names.orangefs, &names.glusterfs, &names.moosefs].into_iter().zip(PUBLISHED);
    entries.extend(published.map(|(name, color)| (format!("{name} (published)"), color, true)));
    let mut x = i32::try_from(LABELS_PX).expect("a small constant");
    for (name, color, is_published) in entries {
        if is_published {
            area.draw(&TriangleMarker::new((x, 40), 4, color.filled()))?;
        } else {
            area.draw(&Circle::new((x, 40), 5, color.filled()))?;
        }
        area.draw(&Text::new(name.clone(), (x + 10, 34), ("sans-serif", 12).into_font()))?;
        x += 32 + 7 * i32::try_from(name.len())?;
    }
    Ok(())
}

fn dots(outcome: &Outcome, peers: &Peers, row: &Row) -> Vec<Dot> {
    let mut dots = Vec::new();
    let figure = peers.figure(row.id);
    let local_then = figure.and_then(|figure| figure.local);
    // Their figure beside the local one that was taken next to it, not beside today's.
    if let (Some(figure), Some(local)) = (figure, local_then) {
        for ((_, value), color) in peers.named(figure).into_iter().zip(PUBLISHED) {
            let ratio = value / local;
            let ratio = Spread { median: ratio, min: ratio, max: ratio };
            dots.push(Dot { ratio: better_right(ratio, row), color, is_published: true });
        }
    }
    for place in (LOCAL + 1..outcome.places.len()).chain([MOUNT]) {
        let color = if place == MOUNT { OURS } else { ANOTHER };
        let ratio = if place == MOUNT {
            ratios(outcome, row, LOCAL)
        } else {
            Spread::of_ratios(
                &super::values(outcome, row, place),
                &super::values(outcome, row, LOCAL),
            )
        };
        dots.extend(ratio.map(|ratio| Dot {
            ratio: better_right(ratio, row),
            color,
            is_published: false,
        }));
    }
    dots
}

fn better_right(ratio: Spread, row: &Row) -> Spread {
    if !row.unit.less_is_better() {
        return ratio;
    }
    Spread { median: 1.0 / ratio.median, min: 1.0 / ratio.max, max: 1.0 / ratio.min }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_turned_round() {
        let row = ROWS.iter().find(|row| row.id == "untar").expect("a row");
        let turned = better_right(Spread { median: 2.0, min: 1.0, max: 4.0 }, row);
        assert_eq!((turned.median, turned.min, turned.max), (0.5, 0.25, 1.0));
    }
}
