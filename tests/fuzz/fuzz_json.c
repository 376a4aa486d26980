/*
 * fuzz_json.c: libFuzzer target of the JSON scanner and the gate. Beyond "no crash": the gate agrees with itself, what
 * it admits cJSON reads, and what cJSON prints of it is admitted again.
 *
 *     cmake -DCMAKE_C_COMPILER=clang-14 -DWM_SANITIZE=asan -DWM_FUZZ=ON; fuzz_json -max_total_time=60 CORPUS
 */
#include "base/json.h"
#include "base/text.h"
#include "need.h"

#include <string.h>

#include <cjson/cJSON.h>

/* Every event, with checks of what the interface promises about it. Returns whether the text is legal. */
static bool scan(const char *text, size_t n_bytes, int max_depth)
{
    struct json_scanner s;
    struct arena arena;
    enum json_event event;
    long depth = 0;

    arena_init(&arena, (size_t)1 << 28);
    json_scanner_init(&s, text, n_bytes, max_depth, &arena);
    do {
        event = json_next(&s);
        depth += (event == JSON_OBJECT_BEGIN || event == JSON_ARRAY_BEGIN) -
                 (event == JSON_OBJECT_END || event == JSON_ARRAY_END);
        NEED(depth >= 0 && depth <= max_depth && s.at >= s.begin && s.at <= s.end);
        NEED(s.line >= 1 && s.column >= 1 && s.column <= n_bytes + 1);
        if (event == JSON_KEY || event == JSON_STRING) {
            NEED(s.text.data[s.text.n_bytes] == '\0' && text_valid_utf8(s.text.data, s.text.n_bytes));
            NEED(event == JSON_STRING || strlen(s.text.data) == s.text.n_bytes);
        }
    } while (event != JSON_ERROR && event != JSON_END);
    NEED(json_next(&s) == event && (event == JSON_END) == (depth == 0 && s.flaw == JSON_FLAW_NONE));
    arena_release(&arena);
    return event == JSON_END;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct wm_error err = WM_ERROR_INIT;
    char *text = malloc(n_bytes ? n_bytes : 1), *printed; /* exactly n_bytes, so that ASan sees a read past them */
    bool legal, admitted;
    cJSON *tree;

    NEED(text != NULL);
    if (n_bytes)
        memcpy(text, data, n_bytes);
    legal = scan(text, n_bytes, JSON_MAX_DEPTH);
    scan(text, n_bytes, 4);
    admitted = json_gate("f", text, n_bytes, JSON_MAX_DEPTH, &err) == WM_OK;
    NEED(admitted == (err.status == WM_OK));
    if (admitted) {
        tree = cJSON_ParseWithLength(text, n_bytes);
        NEED(tree != NULL);
        printed = cJSON_PrintUnformatted(tree);
        NEED(printed != NULL && json_gate("p", printed, strlen(printed), JSON_MAX_DEPTH, &err) == WM_OK);
        free(printed);
        cJSON_Delete(tree);
    }
    (void)legal; /* stricter than the gate about control characters in keys, laxer about duplicates */
    free(text);
    return 0;
}
