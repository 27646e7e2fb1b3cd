package install

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Every setting that takes certain values only is refused with others, by its name, with those that it takes and the one that was
// perhaps meant, and accepted with each of those.
func TestClosedSettings(t *testing.T) {
	chart, err := load()
	if err != nil {
		t.Fatal(err)
	}
	known := paths(chart.Values, "")
	// element says what an element of a list must have besides a field of it.
	element := func(key string, rest ...string) string {
		at, field, _ := strings.Cut(key, "[0].")
		var set []string
		for _, s := range rest {
			if name, _, _ := strings.Cut(s, "="); name != field {
				set = append(set, at+"[0]."+s)
			}
		}
		return strings.Join(set, ",")
	}
	for _, c := range closed {
		key, with := c.key, ""
		key = strings.Replace(key, "gateways.*", "gateways.istio-ingressgateway", 1)
		key = strings.ReplaceAll(key, ".*", "[0]")
		switch {
		case strings.Contains(key, "topologySpreadConstraints"):
			with = element(key, "maxSkew=1", "topologyKey=zone", "whenUnsatisfiable=DoNotSchedule")
		case strings.Contains(key, ".ports"):
			with = element(key, "name=a", "port=1")
		case strings.HasSuffix(key, ".effect"):
			with = element(key, "operator=Exists")
		}
		if plain, _, list := strings.Cut(key, "["); !slices.Contains(known, plain) {
			t.Errorf("%s: the chart has no %s (list: %v)", c.key, plain, list)
		}
		try := func(value string) error {
			set := key + "=" + value
			if with != "" {
				set = with + "," + set
			}
			_, err := Render(Settings{Set: []string{set}})
			return err
		}
		for _, v := range c.values {
			if err := try(v); err != nil {
				t.Errorf("%s=%s: %v", key, v, err)
			}
		}
		allowed := slices.DeleteFunc(slices.Clone(c.values), func(s string) bool { return s == "" })
		for _, wrong := range []string{"nonsense", allowed[0] + "x"} {
			err := try(wrong)
			for _, want := range append([]string{"--set " + key + "=" + wrong + ": want one of " + strings.Join(allowed, ", ")}, map[bool][]string{true: {"did you mean " + allowed[0] + "?"}}[wrong != "nonsense" && len(allowed[0]) > 2]...) {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s=%s: %v does not say %q", key, wrong, err, want)
				}
			}
		}
		if !slices.Contains(c.values, "") && !strings.Contains(key, "[") {
			if err := try(""); err == nil {
				t.Errorf("%s may be empty", key)
			}
		}
	}
}

// Whatever is true or false, or a number, in the chart is refused as another thing, by its name; and a key with a letter too many is told
// the one that there is.
func TestKeysAndKinds(t *testing.T) {
	chart, err := load()
	if err != nil {
		t.Fatal(err)
	}
	booleans, keys := 0, 0
	for _, path := range paths(chart.Values, "") {
		var v any = chart.Values
		free := false
		for part := range strings.SplitSeq(path, ".") {
			free = free || freeForm(part)
			v = v.(map[string]any)[part]
		}
		if free || strings.HasPrefix(path, "meshConfig.") { // config/istio says it
			continue
		}
		wrong := ""
		switch {
		case boolean(v):
			booleans, wrong = booleans+1, "is neither true nor false"
		case number(v):
			wrong = "is no number"
		}
		if wrong != "" {
			if _, err := Render(Settings{Set: []string{path + "=perhaps"}}); err == nil || !strings.Contains(err.Error(), "--set "+path+": perhaps "+wrong) {
				t.Errorf("%s=perhaps: %v", path, err)
			}
		}
		if len(path) < 3 {
			continue
		}
		keys++
		if _, err := Render(Settings{Set: []string{path + "x=1"}}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("--set %sx: the chart has no such value; did you mean %s", path, path)) {
			t.Errorf("%sx=1: %v", path, err)
		}
	}
	if booleans < 15 || keys < 80 {
		t.Errorf("only %d booleans and %d keys were tried", booleans, keys)
	}
}

// What the chart does not have where it is said, it may have elsewhere.
func TestUnknownKeys(t *testing.T) {
	for set, want := range map[string]string{
		"cni.repair.mode=repair":                 "cni.repair has deletePods, enabled, labelPods, repairPods",
		"logging.level=debug":                    "did you mean cni.logging.level?",
		"pilot.logLevel=debug":                   "did you mean global.proxy.logLevel?",
		"global.logging.level=debug":             "say global.proxy.logLevel for proxies, cni.logging.level for the node agent",
		"global.logging=debug":                   "say global.proxy.logLevel for proxies",
		"gateways.mine.enabled=true":             "gateways has istio-egressgateway, istio-ingressgateway",
		"nothingOfTheKind=1":                     "the chart has ca, cni, ",
		"global.logging.level=default:info":      "",
		"compatibilityVersion=1.0":               "",
		"meshConfig.accessLogEncoding=whichever": "", // cli says it, with what it must be
	} {
		_, err := Render(Settings{Set: []string{set}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
	for text, fine := range map[string]bool{"compatibilityVersion: 1.0": true, "compatibilityVersion: 1.31": true, "compatibilityVersion: 1.3": false, "mtls: {enabled: true}": true} {
		if _, err := Render(Settings{Files: [][]byte{[]byte(text)}}); (err == nil) != fine {
			t.Errorf("%s: %v", text, err)
		}
	}
}
