package archive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"
)

// Redact takes out of a text what nobody but its owner should read: values of Secrets, keys, tokens, passwords, values of environment
// variables that are not the mesh's. JSON and YAML are gone through by their structure, and whatever it is by its words. It rather
// takes too much.
func Redact(name string, data []byte) []byte {
	switch {
	case strings.HasSuffix(name, ".json"):
		if out, err := structured(data); err == nil {
			data = out
		}
	case strings.HasSuffix(name, ".yaml"):
		data = documents(data)
	}
	return words(data)
}

const gone = "REDACTED"

func structured(data []byte) ([]byte, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // numbers stay as they are written
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(walk(v, ""))
	return b.Bytes(), err
}

// documents goes through each document of YAML. What cannot be read may be anything.
func documents(data []byte) []byte {
	var out [][]byte
	for _, doc := range patterns().separator.Split(string(data), -1) {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		j, err := yaml.YAMLToJSON([]byte(doc))
		if err == nil {
			j, err = structured(j)
		}
		if err == nil {
			j, err = yaml.JSONToYAML(j)
		}
		if err != nil {
			j = fmt.Appendf(nil, "# %s: a document of %d bytes that is not YAML\n", gone, len(doc))
		}
		out = append(out, j)
	}
	return bytes.Join(out, []byte("---\n"))
}

// patterns are what is looked for. They are made when they are first needed: most commands never do.
var patterns = sync.OnceValue(func() *looked {
	return &looked{
		separator: regexp.MustCompile(`(?m)^---.*$`),
		sensitive: regexp.MustCompile(`(?i)(passw(or)?d|passphrase|secret|token|api[-_]?key|private[-_]?key|authorization|cookie|credential|signature|session[-_]?key)`),
		harmless:  regexp.MustCompile(`(?i)(secret|token|credential|key)s?[-_]?(name|ref|type|id|path|file|location|audiences?|ttl|expir\w*|present|count|bytes)$|^(credentialName|secretName|imagePullSecrets|secrets|automountServiceAccountToken|forwardOriginalToken|fromHeaders|outputPayloadToHeader|dynamic_active_secrets|sdsConfig|sds_config|tls_certificate_sds_secret_configs|validation_context_sds_secret_config|sds_secret_config|secret)$`),
		ours:      regexp.MustCompile(`^(ISTIO_|PILOT_|WEIR_|POD_|PROXY_|INSTANCE_|HOST_|GOMEM|GOMAX|GODEBUG|TRUST_DOMAIN|CA_ADDR|SERVICE_ACCOUNT|JWT_POLICY|CLUSTER_ID|REVISION|EXIT_ON_|MINIMUM_DRAIN|TERMINATION_DRAIN|LOCAL_CLUSTER|ENABLE_)`),
		words: []word{
			{regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|$)`), "PRIVATE KEY " + gone},
			{regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`), "PRIVATE KEY " + gone},
			{regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/]*(UFJJVkFURSBLRVkt|BSSVZBVEUgS0VZ|QUklWQVRFIEtFW)[A-Za-z0-9+/=]*`), "PRIVATE KEY " + gone},
			{regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*`), "TOKEN " + gone},
			{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}`), "$1 " + gone},
			{regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s:@"']*:[^/\s@"']+@`), "${1}" + gone + "@"},
			{regexp.MustCompile(`([?&][A-Za-z0-9_.~%\[\]-]+=)[^&\s"'\\<>)]+`), "${1}" + gone},
			{regexp.MustCompile(`(\\*["'](?:k|d|p|q|dp|dq|qi)\\*["']\s*:\s*\\*["'])[A-Za-z0-9_-]{16,}`), "${1}" + gone}, // of JSON Web Keys
			{regexp.MustCompile(`(?i)(--?[a-z0-9-]*(?:passw(?:or)?d|secret|token|api-?key)[a-z0-9-]*=)[^\s"',]+`), "${1}" + gone},
			{regexp.MustCompile(`(?i)\b((?:token|secret)="?)[^\s",;&}]+`), "${1}" + gone},
			{regexp.MustCompile(`(?i)\b((?:[a-z0-9]+[-_])*(?:passw(?:or)?d|passphrase|client_?secret|secret_?key|access_?token|refresh_?token|id_?token|api[-_]?key|private[-_]?key|set-cookie|cookie|x-api-key)"?\s*[=:]\s*"?)[^\s",;}]+`), "${1}" + gone},
		},
	}
})

type looked struct {
	separator *regexp.Regexp // of documents
	sensitive *regexp.Regexp // names of fields, variables and headers whose values are secrets
	harmless  *regexp.Regexp // those of them that only say where a secret is, or are about it
	ours      *regexp.Regexp // environment variables that the mesh reads
	words     []word
}

// word is a secret as it stands in any text.
type word struct {
	is *regexp.Regexp
	by string
}

// isSecret reports whether the value of a field, or of what is called so, is to go.
func isSecret(name string) bool {
	return patterns().sensitive.MatchString(name) && !patterns().harmless.MatchString(name)
}

// walk returns v without secrets; under is the field that it is the value of.
func walk(v any, under string) any {
	switch x := v.(type) {
	case map[string]any:
		if kind, _ := x["kind"].(string); kind == "Secret" {
			hide(x, "data", "stringData")
		}
		named, _ := x["name"].(string)
		if named == "" {
			named, _ = x["key"].(string)
		}
		for _, field := range []string{"value", "raw_value", "rawValue"} { // of variables and headers
			if s, ok := x[field].(string); ok && (isSecret(named) || under == "env" && !patterns().ours.MatchString(named)) {
				x[field] = bytesOf(s)
			}
		}
		if a, ok := x["annotations"].(map[string]any); ok {
			delete(a, "kubectl.kubernetes.io/last-applied-configuration") // the object once more, as a text
		}
		delete(x, "managedFields")
		for k, inner := range x {
			switch s, text := inner.(string); {
			case text && isSecret(k):
				x[k] = bytesOf(s)
			case k == "private_key", k == "privateKey", k == "password", isSecret(k) && !text && under == "data":
				x[k] = hidden(inner)
			case text && nested(s): // JSON or YAML in a ConfigMap, an annotation or a variable
				x[k] = inside(s)
			default:
				x[k] = walk(inner, k)
			}
		}
	case []any:
		for i := range x {
			x[i] = walk(x[i], under)
		}
	}
	return v
}

func bytesOf(s string) string { return fmt.Sprintf("%s, %d bytes", gone, len(s)) }

func hide(x map[string]any, fields ...string) {
	for _, f := range fields {
		if v, ok := x[f]; ok {
			x[f] = hidden(v)
		}
	}
}

// hidden keeps the names of what is in v.
func hidden(v any) any {
	switch x := v.(type) {
	case string:
		return bytesOf(x)
	case map[string]any:
		for k := range x {
			x[k] = hidden(x[k])
		}
	case []any:
		for i := range x {
			x[i] = hidden(x[i])
		}
	}
	return v
}

func nested(s string) bool {
	t := strings.TrimSpace(s)
	return strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[") || strings.Contains(t, ":\n") || strings.Contains(t, ": ") && strings.Contains(t, "\n")
}

// inside goes through a text that may hold a document.
func inside(s string) string {
	if out, err := structured([]byte(s)); err == nil {
		return strings.TrimSpace(string(out))
	}
	j, err := yaml.YAMLToJSON([]byte(s))
	if err != nil || !bytes.HasPrefix(j, []byte("{")) {
		return s // words goes through it
	}
	if j, err = structured(j); err == nil {
		j, err = yaml.JSONToYAML(j)
	}
	if err != nil {
		return s
	}
	return string(j)
}

func words(data []byte) []byte {
	for _, w := range patterns().words {
		data = w.is.ReplaceAll(data, []byte(w.by))
	}
	return data
}
