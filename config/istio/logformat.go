package istio

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/api/substitution"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// checkLogFormat says what is wrong with the format of an access log: proxies would refuse every listener that has it.
func checkLogFormat(r *config.Report, path, format string, isJSON bool) {
	if format == "" {
		return
	}
	if !isJSON {
		checkLogText(r, path, format)
		return
	}
	var root map[string]any
	if err := json.Unmarshal([]byte(format), &root); err != nil || root == nil {
		why := "null"
		if err != nil {
			why = err.Error()
		}
		r.Invalid(path, "is not an object of JSON, which accessLogEncoding asks for: "+why, `write {"NAME": "%OPERATOR%", …}, or set accessLogEncoding to TEXT`)
		return
	}
	checkLogJSON(r, path, root)
}

// checkLogJSON checks every string in a value.
func checkLogJSON(r *config.Report, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			checkLogJSON(r, document.Key(path, k), v[k])
		}
	case []any:
		for i, e := range v {
			checkLogJSON(r, path+"["+strconv.Itoa(i)+"]", e)
		}
	case string:
		checkLogText(r, path, v)
	}
}

func checkLogText(r *config.Report, path, format string) {
	parts, err := substitution.Parse(format)
	if err != nil {
		r.Invalid(path, err.Error(), "docs/access-log.md lists the operators")
		return
	}
	if empty := substitution.Empty(parts); len(empty) > 0 {
		r.Add(config.FieldNotEnforced, path, "%"+strings.Join(empty, "%, %")+"% never has a value: nothing here sets it", "leave it out, or expect -")
	}
}
