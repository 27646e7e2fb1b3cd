// Package monitoring is what to watch a mesh by: alerting rules for Prometheus (rules.yaml)
// and dashboards for Grafana (dashboards/*.json), as files that people load into theirs.
//
// Enters: nothing; the dashboards are the tables of dashboards.go. Leaves: the files, which
// `go test ./install/monitoring -update` writes. Rules are written by hand: Prometheus reads
// them as they are, and so does a reviewer.
//
// Called by tests only: nothing of this is in a program. Nothing is concurrent.
//
// The tests know every metric that is named here: test/acceptance asks each query of a
// dashboard, and each rule, of a real Prometheus that scrapes the demo.
package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Queries are the queries of all dashboards with every variable at "all", by dashboard and
// panel.
func Queries() map[string]string {
	out := map[string]string{}
	for _, d := range dashboards {
		for _, r := range d.rows {
			for _, p := range r.panels {
				for i, q := range p.queries {
					out[fmt.Sprintf("%s: %s: %d", d.title, p.title, i)] = strings.NewReplacer("$__rate_interval", "1m", "$namespace", ".*", "$service", ".*").Replace(q.expr)
				}
			}
		}
	}
	return out
}

type dashboard struct {
	file, title, about string
	variables          []variable
	rows               []row
}

// A variable is chosen at the top of a dashboard: all values of a label, as a pattern.
type variable struct{ name, label, metric string }

type row struct {
	title  string
	panels []panel
}

type panel struct {
	title, about string
	unit         string // of Grafana: reqps, ms, percentunit, …
	stat         bool   // one number instead of lines
	queries      []query
}

type query struct{ expr, legend string }

// The size of panels, in the 24 columns of Grafana.
const (
	width, height         = 8, 8
	statWidth, statHeight = 4, 4
)

// render is a dashboard as Grafana imports it: schema 39 is read by 10 and everything after
// it. The data source is asked for at the import.
func (d *dashboard) render() []byte {
	type m = map[string]any
	source := m{"type": "prometheus", "uid": "${datasource}"}
	vars := []any{m{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}}
	for _, v := range d.variables {
		vars = append(vars, m{"name": v.name, "label": strings.ToUpper(v.name[:1]) + v.name[1:], "type": "query", "datasource": source, "query": fmt.Sprintf("label_values(%s, %s)", v.metric, v.label),
			"refresh": 2, "sort": 1, "includeAll": true, "allValue": ".*", "current": m{"text": "All", "value": "$__all"}})
	}
	var panels []any
	id, y := 0, 0
	next := func() int { id++; return id }
	for _, r := range d.rows {
		panels = append(panels, m{"id": next(), "type": "row", "title": r.title, "collapsed": false, "panels": []any{}, "gridPos": m{"x": 0, "y": y, "w": 24, "h": 1}})
		y++
		x, tallest := 0, 0
		for _, p := range r.panels {
			w, h, kind := width, height, "timeseries"
			if p.stat {
				w, h, kind = statWidth, statHeight, "stat"
			}
			if x+w > 24 {
				x, y, tallest = 0, y+tallest, 0
			}
			tallest = max(tallest, h)
			var targets []any
			for i, q := range p.queries {
				targets = append(targets, m{"refId": string(rune('A' + i)), "datasource": source, "expr": q.expr, "legendFormat": q.legend})
			}
			panels = append(panels, m{"id": next(), "type": kind, "title": p.title, "description": p.about, "datasource": source, "targets": targets,
				"gridPos": m{"x": x, "y": y, "w": w, "h": h}, "fieldConfig": m{"defaults": m{"unit": p.unit, "min": 0}, "overrides": []any{}}})
			x += w
		}
		y += tallest
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	_ = e.Encode(m{"uid": "weir-" + d.file, "title": d.title, "description": d.about, "tags": []string{"weir"}, "schemaVersion": 39, "editable": true, "refresh": "15s",
		"time": m{"from": "now-1h", "to": "now"}, "timezone": "", "templating": m{"list": vars}, "panels": panels})
	return b.Bytes()
}
