package document

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	"sigs.k8s.io/yaml"
)

func TestSuggest(t *testing.T) {
	known := []string{"match", "route", "retries", "mirrorPercentage", "portLevelSettings", "hosts"}
	for name, want := range map[string]string{
		"mtach": "match", "Match": "match", "retry": "", "retires": "retries", "mirror_percentage": "mirrorPercentage", "host": "hosts",
		"port_level_setting": "portLevelSettings", "weight": "", "": "", "rout": "route",
	} {
		if got := Suggest(name, known); got != want {
			t.Errorf("%q suggests %q, want %q", name, got, want)
		}
	}
}

// What we take a document for is what kubectl takes it for.
func TestSameAsKubernetes(t *testing.T) {
	for _, text := range []string{
		"a: 1\nb: 1.5\nc: -3\nd: 0x1F\ne: 0o17\nf: 017\ng: 1e3\nh: 1_000",
		"a: true\nb: false\nc: 'true'\nd: null\ne: ~\nf:\ng: \"\"",
		"80: a\ntrue: b\n1.5: c",
		"a: 2026-11-20\nb: 2026-11-20T10:00:00Z\nc: 10:30\nd: 1.20.3",
		"a: |\n  x\n  y\nb: >-\n  x\n  y\nc: \"\\u00e9\\n\"\nd: 'it''s'",
		"o: &x {a: 1, b: 2}\np: *x\nq: {<<: *x, b: 3, c: 4}",
		"o: &x {a: 1}\np: &y {a: 2, b: 2}\nq: {<<: [*x, *y], c: 4}",
		"- a\n- [b, {c: d}]\n-\n- []\n- {}",
	} {
		v, err := ParseYAML(text, 1)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		want, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(want, &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(v.AppendJSON(nil), &b); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s\ngot  %s\nwant %s", text, v.AppendJSON(nil), want)
		}
	}
}

// The strict decoder agrees with Istio's own on what is right.
func TestProtoAgreesWithIstio(t *testing.T) {
	text := `hosts: [a, b]
http:
- match: [{uri: {prefix: /}, headers: {x: {exact: "1"}, y: {}}, port: 80}]
  route: [{destination: {host: a, port: {number: 9080}}, weight: 50}]
  timeout: 1h30m
  retries: {attempts: 3, perTryTimeout: 0.25s, retryRemoteLocalities: false}
  fault: {delay: {fixedDelay: 7s, percentage: {value: 0.1}}}
  directResponse: {status: 200, body: {bytes: aGk=}}
  redirect: {derivePort: FROM_REQUEST_PORT}
`
	v, err := ParseYAML(text, 1)
	if err != nil {
		t.Fatal(err)
	}
	var got, want networkingv1alpha3.VirtualService
	Proto(v, "spec", &got, func(p Problem) { t.Errorf("%+v", p) })
	if err := want.UnmarshalJSON(v.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
	a, err := got.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	b, err := want.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("got  %s\nwant %s", a, b)
	}
	if d := got.Http[0].Timeout.AsDuration(); d != 90*time.Minute {
		t.Error(d)
	}
}

func TestPaths(t *testing.T) {
	for got, want := range map[string]string{
		Index(Key("spec", "http"), 3):                    "spec.http[3]",
		Key("metadata.labels", "app.kubernetes.io/name"): `metadata.labels["app.kubernetes.io/name"]`,
		Key("", "kind"):                                  "kind",
		Key("spec.portLevelMtls", "8080"):                "spec.portLevelMtls.8080",
		Key(Key("a", `we"ird]`), "b"):                    `a["we\"ird]"].b`,
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	v, err := ParseYAML("a:\n  'we\"ird]':\n    b:\n    - c\n    - d: 1\n", 10)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{`a["we\"ird]"].b[1].d`: 14, `a["we\"ird]"].b[0]`: 13, `a["we\"ird]"].b`: 12, "a.x": 10, "": 10, `a["`: 10, "a[x]": 10} {
		if got := v.LineOf(path); got != want {
			t.Errorf("%s is in line %d, want %d", path, got, want)
		}
	}
}
