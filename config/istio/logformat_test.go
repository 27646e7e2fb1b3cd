package istio

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// What proxies could not do with an access log format is said where it was written; what they can is passed on as it is.
func TestLogFormat(t *testing.T) {
	root, err := document.ParseYAML("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n", 1)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := config.NewObject(root, document.Part{}, "in.yaml", "default")
	for _, c := range []struct{ name, text, finding string }{
		{"text", `{accessLogFormat: "%START_TIME(%s)% %REQ(A?B):3%\n"}`, ""},
		{"JSON", `{accessLogFormat: '{"a": {"b": ["%RESPONSE_CODE%", 1]}}', accessLogEncoding: JSON}`, ""},
		{"Istio's own JSON", `{accessLogEncoding: JSON}`, ""},
		{"an operator nobody knows", `{accessLogFormat: "%NOPE%"}`, "mesh.accessLogFormat: format \"%NOPE%\": there is no operator %NOPE%"},
		{"one that is not done", `{accessLogFormat: "%CEL(request.path)%"}`, "expressions are not evaluated"},
		{"one deep in JSON", `{accessLogFormat: '{"a": {"b": ["x", "%REQ%"]}}', accessLogEncoding: JSON}`, "mesh.accessLogFormat.a.b[1]: format \"%REQ%\": operator %REQ% needs the name of a header"},
		{"text for JSON", `{accessLogFormat: "%START_TIME%", accessLogEncoding: JSON}`, "is not an object of JSON"},
		{"null for JSON", `{accessLogFormat: "null", accessLogEncoding: JSON}`, "is not an object of JSON"},
		{"one that is never set", `{accessLogFormat: "%DYNAMIC_METADATA(istio.mixer:status)%"}`, "mesh.accessLogFormat: %DYNAMIC_METADATA% never has a value"},
	} {
		m, findings := LowerMeshConfig(o, "mesh", c.text, &mesh.Settings{})
		var said []string
		for _, f := range findings {
			said = append(said, f.FieldPath+": "+f.Message)
		}
		if all := strings.Join(said, "\n"); c.finding == "" && all != "" || !strings.Contains(all, c.finding) {
			t.Errorf("%s: %q, want %q", c.name, all, c.finding)
		}
		if refused := c.finding != "" && !strings.Contains(c.finding, "never"); (m == nil) != refused {
			t.Errorf("%s: refused %v, want %v", c.name, m == nil, refused)
		}
	}
	m, _ := LowerMeshConfig(o, "mesh", `{accessLogFormat: '{"a": "%PROTOCOL%"}', accessLogEncoding: JSON}`, &mesh.Settings{})
	if s := m.Settings(&mesh.Settings{}); !s.AccessLogJSON || s.AccessLogFormat != `{"a": "%PROTOCOL%"}` || s.AccessLog {
		t.Errorf("%+v", s)
	}
}
