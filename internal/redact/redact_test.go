package redact_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/weirmesh/weir/internal/redact"
)

const secret = "hunter2-hunter2"

type holder struct {
	Shown  redact.Bytes
	Token  redact.String
	hidden redact.Bytes // fmt cannot call the methods of this one
	inner  *holder
}

func newHolder() *holder {
	return &holder{
		Shown: redact.New([]byte(secret)), Token: redact.New(secret), hidden: redact.New([]byte(secret)),
		inner: &holder{hidden: redact.New([]byte(secret))},
	}
}

// No ordinary way of writing a value down shows the secret inside it.
func TestNothingPrintsASecret(t *testing.T) {
	h := newHolder()
	out := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%T %v"} {
		args := []any{h.Shown}
		if verb == "%T %v" {
			args = []any{h, *h}
		}
		out["fmt "+verb] = fmt.Sprintf(verb, args...)
		out["fmt struct "+verb] = fmt.Sprintf(verb, append([]any{*h}, args[1:]...)...)
		out["fmt token "+verb] = fmt.Sprintf(verb, append([]any{h.Token}, args[1:]...)...)
	}
	for name, encode := range map[string]func(any) ([]byte, error){"json": json.Marshal, "yaml": yaml.Marshal, "xml": xml.Marshal} {
		b, err := encode(*h)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		out[name] = string(b)
		if !strings.Contains(out[name], "[redacted]") {
			t.Errorf("%s does not show that a secret is there: %s", name, b)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "k", h.Shown, "t", h.Token, "h", *h)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "k", h.Shown, "t", h.Token, "h", *h)
	out["slog"] = log.String()
	out["error"] = fmt.Errorf("signing with %v: %s", h.Shown, h.Token).Error()

	for how, text := range out {
		for _, leak := range []string{secret, hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret))), "104 117 110", "aHVudGVy"} {
			if strings.Contains(text, leak) {
				t.Errorf("%s leaks: %s", how, text)
			}
		}
	}
}

func TestReveal(t *testing.T) {
	if got := redact.New(secret).Reveal(); got != secret {
		t.Errorf("revealed %q", got)
	}
	if got := redact.New([]byte(secret)).Reveal(); string(got) != secret {
		t.Errorf("revealed %q", got)
	}
	var none redact.Bytes
	if !none.IsZero() || len(none.Reveal()) != 0 || none.String() != "[empty]" || !redact.New("").IsZero() {
		t.Errorf("the zero secret is not empty: %v", none)
	}
}

func TestEqual(t *testing.T) {
	a := redact.New(secret)
	for _, c := range []struct {
		b    redact.String
		want bool
	}{{redact.New(secret), true}, {redact.New("hunter3"), false}, {redact.String{}, false}} {
		if a.Equal(c.b) != c.want {
			t.Errorf("equal to %q: %v", c.b.Reveal(), !c.want)
		}
	}
}
