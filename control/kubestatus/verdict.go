package kubestatus

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control"
)

// The conditions that are ours; Istio had Reconciled, Gateway API has Accepted.
const (
	accepted   = "Accepted"
	reconciled = "Reconciled"
)

// Reasons of conditions.
const (
	reasonAccepted       = "Accepted"
	reasonInvalid        = "Invalid"
	reasonNotImplemented = "NotImplemented"
	reasonReconciled     = "Reconciled"
	reasonPending        = "Pending"
)

const (
	maxMessage = 2000 // characters of a condition; Gateway API allows 32 KB, and nobody reads that
	maxListed  = 20   // validation messages
)

// condition is what is said of one question; status "" says nothing.
type condition struct{ status, reason, message string }

// verdict is all there is to say about an object. Two that are equal say the same.
type verdict struct {
	generation           int64
	accepted, reconciled condition
	messages             string // status.validationMessages, JSON
}

// judge says what an outcome means; final is false if that may change without anything new
// of the configuration.
func judge(o *control.Outcome, generation int64, now time.Time) (v verdict, final bool) {
	v = verdict{generation: generation, messages: validation(o.Findings)}
	said := sentences(o.Findings)
	switch o.Object.State {
	case store.Compiled:
		v.accepted = condition{"True", reasonAccepted, said}
	case store.Quarantined:
		v.accepted = condition{"False", reasonInvalid, said}
		if o.Object.LastGood() {
			v.accepted.message += "\nThe last good version stays in force."
		}
	case store.Unenforced:
		v.accepted = condition{"False", reasonNotImplemented, said}
	case store.Ignored:
		return verdict{}, true
	}
	v.accepted.message = clip(strings.TrimPrefix(v.accepted.message, "\n"))
	switch {
	case o.Object.State != store.Compiled:
		return v, true
	case o.Settled && o.Proxies == 0:
		v.reconciled = condition{"True", reasonReconciled, "no connected proxy needs it"}
		return v, true
	case o.Settled:
		v.reconciled = condition{"True", reasonReconciled, "in force on all proxies that need it"}
		return v, true
	case now.Sub(o.Since) < grace:
		return verdict{}, false // in a moment there is more to say
	}
	v.reconciled = condition{"False", reasonPending, clip(o.Why)}
	if o.Why == "" {
		v.reconciled.message = "not yet in force on all proxies that need it"
	}
	return v, false
}

// sentences are findings in words, errors first.
func sentences(fs []config.Finding) string {
	sorted := slices.SortedStableFunc(slices.Values(fs), func(a, b config.Finding) int { return int(b.Severity) - int(a.Severity) })
	var b strings.Builder
	for _, f := range sorted {
		if b.Len() > maxMessage {
			break
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s %s: ", f.Severity, f.Code)
		if f.FieldPath != "" {
			b.WriteString(f.FieldPath + ": ")
		}
		b.WriteString(f.Message)
		if f.Hint != "" {
			b.WriteString(" (" + f.Hint + ")")
		}
	}
	return b.String()
}

// message is analysis.v1alpha1.AnalysisMessageBase of Istio's API.
type message struct {
	Type struct {
		Name string `json:"name"`
		Code string `json:"code"`
	} `json:"type"`
	Level            string `json:"level"`
	DocumentationURL string `json:"documentationUrl"`
}

// validation are the findings that have a code of Istio's, in Istio's form; its API has no
// others.
func validation(fs []config.Finding) string {
	list := []message{}
	for _, f := range fs {
		info, ok := config.Explain(f.Code)
		if !ok || !strings.HasPrefix(string(f.Code), "IST") || len(list) == maxListed {
			continue
		}
		var m message
		m.Type.Name, m.Type.Code = info.Title, string(f.Code)
		m.Level = strings.ToUpper(f.Severity.String())
		m.DocumentationURL = "https://istio.io/latest/docs/reference/config/analysis/" + strings.ToLower(m.Type.Code) + "/"
		if !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(err) // strings
	}
	return string(text)
}

// into is the patch that makes a status say v; changed is false if it says so already.
func (v verdict) into(status map[string]any, now time.Time) (patch map[string]any, changed bool) {
	was, _ := status["conditions"].([]any)
	conditions := []any{}
	held := map[string]map[string]any{}
	for _, c := range was {
		m, _ := c.(map[string]any)
		kind, _ := m["type"].(string)
		if kind == accepted || kind == reconciled {
			held[kind] = m
			continue
		}
		conditions = append(conditions, c)
	}
	for _, c := range []struct {
		kind string
		condition
	}{{accepted, v.accepted}, {reconciled, v.reconciled}} {
		old := held[c.kind]
		if c.status == "" {
			changed = changed || old != nil
			continue
		}
		same := func(field, value string) bool { s, _ := old[field].(string); return s == value }
		m := map[string]any{"type": c.kind, "status": c.status, "reason": c.reason, "observedGeneration": v.generation, "lastTransitionTime": now.UTC().Format(time.RFC3339)}
		if c.message != "" {
			m["message"] = c.message
		}
		if same("status", c.status) && old["lastTransitionTime"] != nil {
			m["lastTransitionTime"] = old["lastTransitionTime"]
		}
		if !same("status", c.status) || !same("reason", c.reason) || !same("message", c.message) || number(old["observedGeneration"]) != v.generation {
			changed = true
		}
		conditions = append(conditions, m)
	}
	patch = map[string]any{"conditions": conditions}
	if number(status["observedGeneration"]) != v.generation {
		patch["observedGeneration"], changed = v.generation, true
	}
	var messages []any
	if err := json.Unmarshal([]byte(v.messages), &messages); err != nil {
		panic(err) // our own writing
	}
	if held, _ := status["validationMessages"].([]any); len(held) != len(messages) || len(held) > 0 && !reflect.DeepEqual(held, messages) {
		patch["validationMessages"], changed = messages, true
	}
	return patch, changed
}

// number is an int64 as JSON has it, or as Istio's own writer does: in quotes.
func number(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case float64:
		return int64(v)
	case string:
		var n int64
		_, _ = fmt.Sscan(v, &n)
		return n
	}
	return 0
}

func clip(s string) string {
	if len(s) > maxMessage {
		s = s[:maxMessage] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
