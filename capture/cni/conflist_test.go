package cni_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/capture/cni"
)

var entry = cni.Entry("/var/run/weir-cni/kubeconfig", "/var/run/weir-cni/agent.sock", []string{"kube-system"})

const ours = `    {
      "excludeNamespaces": [
        "kube-system"
      ],
      "kubeconfig": "/var/run/weir-cni/kubeconfig",
      "socket": "/var/run/weir-cni/agent.sock",
      "type": "weir-cni"
    }
  ]
}
`

// What becomes of the configurations of others: nothing of theirs changes, ours comes last
// and once; taken out again, what they mean is left.
func TestExtend(t *testing.T) {
	const flannel = `{
  "cniVersion": "0.3.1",
  "name": "cbr0",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "mtu": 1.450e3
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    },
`
	for _, c := range []struct{ name, conf, want, rest string }{
		{"a list gets our entry at its end; numbers stay as they are written",
			`{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel","delegate":{"hairpinMode":true,"mtu":1.450e3}},{"type":"portmap","capabilities":{"portMappings":true}}]}`,
			flannel + ours, strings.TrimSuffix(flannel, ",\n") + "\n  ]\n}\n"},
		{"an entry of ours that is there is replaced",
			`{"name":"n","plugins":[{"type":"weir-cni","kubeconfig":"/old"},{"type":"ptp"}]}`,
			"{\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"type\": \"ptp\"\n    },\n" + ours,
			"{\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"type\": \"ptp\"\n    }\n  ]\n}\n"},
		{"one plugin becomes a list",
			`{"name":"n","cniVersion":"1.0.0","type":"bridge","ipam":{"type":"host-local"}}`,
			"{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"name\": \"n\",\n      \"cniVersion\": \"1.0.0\",\n      \"type\": \"bridge\",\n      \"ipam\": {\n        \"type\": \"host-local\"\n      }\n    },\n" + ours,
			"{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"name\": \"n\",\n      \"cniVersion\": \"1.0.0\",\n      \"type\": \"bridge\",\n      \"ipam\": {\n        \"type\": \"host-local\"\n      }\n    }\n  ]\n}\n"},
	} {
		got, err := cni.Extend([]byte(c.conf), entry)
		if d := cmp.Diff(c.want, string(got)); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", c.name, err, d)
		}
		if again, err := cni.Extend(got, entry); err != nil || string(again) != string(got) {
			t.Errorf("%s: twice is not as once: %v\n%s", c.name, err, again)
		}
		rest, found, err := cni.Without(got)
		if d := cmp.Diff(c.rest, string(rest)); d != "" || err != nil || !found {
			t.Errorf("%s, taken out: %v %v (-want +got)\n%s", c.name, found, err, d)
		}
		if _, found, err := cni.Without(rest); found || err != nil {
			t.Errorf("%s, taken out twice: %v %v", c.name, found, err)
		}
	}
	for conf, want := range map[string]string{
		``:                                   "unexpected end",
		`[]`:                                 "cannot unmarshal",
		`{"plugins":[{"type":"ptp"}]}`:       "it has no name",
		`{"name":"n"}`:                       "neither a type nor plugins",
		`{"name":"n","plugins":[]}`:          "it has no plugins",
		`{"name":"n","plugins":{"a":1}}`:     "neither a type nor plugins",
		`{"name":"n","type":"weir-cni"}`:     "no plugin in it but weir-cni",
		`{"name":["n"],"plugins":[{"a":1}]}`: "it has no name",
	} {
		if got, err := cni.Extend([]byte(conf), entry); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s %v, want %q", conf, got, err, want)
		}
	}
}

// The configuration in use is the first by name that can be read, as runtimes choose it.
func TestPrimary(t *testing.T) {
	const one, many = `{"name":"n","type":"ptp"}`, `{"name":"n","plugins":[{"type":"ptp"}]}`
	for _, c := range []struct {
		name    string
		files   map[string]string
		want    string
		skipped int
	}{
		{"nothing there", nil, "", 0},
		{"the first by name", map[string]string{"20-b.conflist": many, "10-a.conf": one, "README": "no"}, "10-a.conf", 0},
		{"what cannot be read is passed over", map[string]string{"00-a.conflist": "{", "10-b.json": one}, "10-b.json", 1},
		{"a list is in a .conflist, one plugin is not", map[string]string{"10-a.conf": many, "20-a.conflist": one, "30-a.conflist": many}, "30-a.conflist", 2},
		{"files of other programs", map[string]string{"10-a.conflist.weir-was": many, "10-a.conf.bak": one, "kubeconfig": "{}"}, "", 0},
	} {
		dir := fstest.MapFS{}
		for name, text := range c.files {
			dir[name] = &fstest.MapFile{Data: []byte(text)}
		}
		got, skipped, err := cni.Primary(dir)
		if got != c.want || len(skipped) != c.skipped || errors.Is(err, cni.ErrNoNetwork) != (c.want == "") {
			t.Errorf("%s: %q %v %v", c.name, got, skipped, err)
		}
	}
}

func FuzzExtend(f *testing.F) {
	f.Add([]byte(`{"name":"n","cniVersion":"0.3.1","plugins":[{"type":"ptp"},{"type":"weir-cni"}]}`))
	f.Add([]byte(`{"name":"n","type":"ptp"}`))
	f.Fuzz(func(t *testing.T, conf []byte) {
		got, err := cni.Extend(conf, entry)
		if err != nil {
			return
		}
		if again, err := cni.Extend(got, entry); err != nil || string(again) != string(got) {
			t.Errorf("twice is not as once: %v\n%s\n%s", err, got, again)
		}
	})
}
