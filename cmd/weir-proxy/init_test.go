package main

import (
	"bytes"
	"strings"
	"testing"
)

// --dry-run changes nothing and needs no right.
func TestInitDryRun(t *testing.T) {
	var out, notes bytes.Buffer
	if err := runInit(t.Context(), strings.Fields("-n -i * -b * -u 1337 --reconcile"), &out, &notes); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "table inet weir {") || !strings.Contains(notes.String(), "init: --reconcile:") {
		t.Errorf("rules %q, notes %q", &out, &notes)
	}
}
