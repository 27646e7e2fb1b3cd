// Package garbage makes configuration that is wrong in many ways, for tests and benchmarks: a
// number enters, a YAML document leaves. None of it protects anything, so nothing has to
// stay closed because of it, and none of it concerns a service of a test.
package garbage

import (
	"fmt"
	"strings"
)

// forms have the document's number for #.
var forms = []string{
	// Fields of wrong types, unknown ones, values out of range.
	"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: garbage-#, namespace: garbage}\nspec: {hosts: nobody, htttp: [7, {route: here}]}",
	"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: garbage-#, namespace: garbage}\nspec: {hosts: [g#.example.com], http: [{timeout: soon, route: [{destination: {host: g#}, weight: -#}]}]}",
	"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: garbage-#, namespace: garbage}\nspec: {hosts: ['g#..example'], addresses: [300.1.2.#], ports: [{number: 7000#, name: '', protocol: MORSE}], resolution: GUESS}",
	"apiVersion: v1\nkind: Service\nmetadata: {name: garbage-#, namespace: garbage}\nspec: {clusterIP: not-an-address, ports: [{port: http}, {port: 99999}]}",
	"apiVersion: v1\nkind: Pod\nmetadata: {name: garbage-#, namespace: garbage}\nspec: [1, 2]\nstatus: {podIP: 1.2.3}",
	"apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: garbage-#, namespace: garbage}\nspec: {servers: [{port: {number: -1}, hosts: []}, null, 7]}",
	// Not objects.
	"apiVersion: networking.istio.io/v9\nkind: Mystery\nmetadata: {name: garbage-#}",
	"kind: VirtualService\nmetadata: {name: garbage-#}",
	"metadata: {name: Not_A_Name_#, namespace: '...'}\nkind: Service\napiVersion: v1",
	// Not YAML.
	"garbage: [#, {",
	"\tkey#: \x01",
}

// Object is the n-th document, without a "---".
func Object(n int) string {
	return strings.ReplaceAll(forms[n%len(forms)], "#", fmt.Sprint(n))
}
