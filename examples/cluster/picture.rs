//! The run as a picture: throughput, latency and what happened, in one HTML file without anything from outside.

use std::fmt::Write;

use crate::report::{POINT_MS, Run};

const WIDTH: f64 = 1100.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;

/// One curve over the points of the run.
struct Curve {
    title: &'static str,
    unit: &'static str,
    colour: &'static str,
    values: Vec<f64>,
}

pub(crate) fn html(run: &Run) -> String {
    let per_second = 1000.0 / POINT_MS as f64;
    let values =
        |pick: &dyn Fn(&crate::report::Point) -> f64| run.points.iter().map(pick).collect();
    let curves = [
        Curve {
            title: "Throughput",
            unit: "requests/s",
            colour: "#1f6feb",
            values: values(&|point| point.requests as f64 * per_second),
        },
        Curve {
            title: "Latency, 99th percentile",
            unit: "ms",
            colour: "#bf3989",
            values: values(&|point| point.latencies.quantile(0.99) / 1000.0),
        },
        Curve {
            title: "Loads from SQLite",
            unit: "loads/s",
            colour: "#1a7f37",
            values: values(&|point| point.loads as f64 * per_second),
        },
        Curve {
            title: "Failed requests",
            unit: "errors/s",
            colour: "#cf222e",
            values: values(&|point| point.errors as f64 * per_second),
        },
    ];
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><title>slotmesh cluster run</title>\
         <style>body{font:15px system-ui,sans-serif;margin:2em auto;max-width:1180px;color:#1f2328}\
         table{border-collapse:collapse}td{padding:.15em 1em .15em 0}text{font:12px system-ui,sans-serif}</style>\
         <h1>Three nodes, one killed and replaced</h1>",
    );
    table(&mut page, run);
    for curve in &curves {
        chart(&mut page, run, curve);
    }
    page
}

fn table(page: &mut String, run: &Run) {
    let summary = run.summary();
    let failover = summary.failover_ms.map_or("not finished".to_owned(), |ms| format!("{ms} ms"));
    let rows = [
        ("requests", summary.requests.to_string()),
        ("requests per second", format!("{:.0}", summary.ops_per_s)),
        (
            "hit ratio, local tier / with the cluster",
            format!("{} / {}", summary.hit_ratio_l1, summary.hit_ratio_total),
        ),
        ("p50 / p99", format!("{} / {} µs", summary.p50_us, summary.p99_us)),
        ("failover", failover),
        (
            "acknowledged writes / lost",
            format!("{} / {}", summary.acked_writes, summary.lost_acked_writes),
        ),
        ("wrong values", summary.wrong_values.to_string()),
    ];
    page.push_str("<table>");
    for (name, value) in rows {
        push(page, format_args!("<tr><td>{name}<td><b>{value}</b>"));
    }
    page.push_str("</table>");
}

fn chart(page: &mut String, run: &Run, curve: &Curve) {
    let highest = curve.values.iter().copied().fold(1.0, f64::max);
    let count = curve.values.len().max(2);
    let x = |index: f64| LEFT + index / (count - 1) as f64 * (WIDTH - LEFT - 10.0);
    let y = |value: f64| HEIGHT - 30.0 - value / highest * (HEIGHT - 60.0);
    push(
        page,
        format_args!("<h2>{}</h2><svg viewBox='0 0 {WIDTH} {HEIGHT}' width=100%>", curve.title),
    );
    for step in 0..=4 {
        let value = highest * f64::from(step) / 4.0;
        let at = y(value);
        push(
            page,
            format_args!("<line x1={LEFT} x2={WIDTH} y1={at:.1} y2={at:.1} stroke=#d8dee4 />"),
        );
        push(page, format_args!("<text x=0 y={:.1}>{value:.0}</text>", at + 4.0));
    }
    push(page, format_args!("<text x=0 y=14>{}</text>", curve.unit));
    let points = curve.values.iter().enumerate().map(|(index, value)| (x(index as f64), y(*value)));
    let line: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    push(
        page,
        format_args!(
            "<polyline fill=none stroke-width=1.5 stroke={} points='{}' />",
            curve.colour,
            line.join(" ")
        ),
    );
    for mark in &run.marks {
        let at = x(mark.unix_ms.saturating_sub(run.began_ms) as f64 / POINT_MS as f64);
        push(
            page,
            format_args!(
                "<line x1={at:.1} x2={at:.1} y1=10 y2={} stroke=#57606a stroke-dasharray=4 />",
                HEIGHT - 30.0
            ),
        );
        push(page, format_args!("<text x={:.1} y=20>{}</text>", at + 4.0, mark.what));
    }
    for second in (0..=count as u64 * POINT_MS / 1000).step_by(2) {
        let at = x((second * 1000 / POINT_MS) as f64);
        push(page, format_args!("<text x={at:.1} y={}>{second} s</text>", HEIGHT - 10.0));
    }
    page.push_str("</svg>");
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = page.write_fmt(text);
}
