/* Holds: scalars mean what PyYAML 6.0.3 says they mean, and fields take what pydantic 2.14 takes. The two tables were
 * printed by those two (yaml.safe_load, then TypeAdapter(float) and TypeAdapter(bool)), not written by hand. */
#include "recipe/yaml_scalar.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { REFUSED, TAKEN };

struct row {
    const char *text;
    enum scalar_kind kind;
    int taken; /* by a float field */
    double number;
    int flag; /* of a boolean field; -1: refused */
};

/* clang-format off */
static const struct row plain[] = {
    {"1", SCALAR_INTEGER, TAKEN, 1.0, 1},
    {"+1", SCALAR_INTEGER, TAKEN, 1.0, 1},
    {"-1", SCALAR_INTEGER, TAKEN, -1.0, -1},
    {"0", SCALAR_INTEGER, TAKEN, 0.0, 0},
    {"00", SCALAR_INTEGER, TAKEN, 0.0, 0},
    {"012", SCALAR_INTEGER, TAKEN, 10.0, -1},
    {"-012", SCALAR_INTEGER, TAKEN, -10.0, -1},
    {"+012", SCALAR_INTEGER, TAKEN, 10.0, -1},
    {"0o14", SCALAR_STRING, REFUSED, 0, -1},
    {"08", SCALAR_STRING, TAKEN, 8.0, -1},
    {"089", SCALAR_STRING, TAKEN, 89.0, -1},
    {"07", SCALAR_INTEGER, TAKEN, 7.0, -1},
    {"0_7", SCALAR_INTEGER, TAKEN, 7.0, -1},
    {"0_", SCALAR_INTEGER, TAKEN, 0.0, 0},
    {"0_8", SCALAR_STRING, TAKEN, 8.0, -1},
    {"0x1F", SCALAR_INTEGER, TAKEN, 31.0, -1},
    {"0xg", SCALAR_STRING, REFUSED, 0, -1},
    {"0x", SCALAR_STRING, REFUSED, 0, -1},
    {"0x_1F", SCALAR_INTEGER, TAKEN, 31.0, -1},
    {"0x1_F", SCALAR_INTEGER, TAKEN, 31.0, -1},
    {"+0x1F", SCALAR_INTEGER, TAKEN, 31.0, -1},
    {"-0x10", SCALAR_INTEGER, TAKEN, -16.0, -1},
    {"0x1.8", SCALAR_STRING, REFUSED, 0, -1},
    {"0b101", SCALAR_INTEGER, TAKEN, 5.0, -1},
    {"0b2", SCALAR_STRING, REFUSED, 0, -1},
    {"0b", SCALAR_STRING, REFUSED, 0, -1},
    {"0b_1", SCALAR_INTEGER, TAKEN, 1.0, 1},
    {"-0b11", SCALAR_INTEGER, TAKEN, -3.0, -1},
    {"1_000", SCALAR_INTEGER, TAKEN, 1000.0, -1},
    {"1__0", SCALAR_INTEGER, TAKEN, 10.0, -1},
    {"_1", SCALAR_STRING, REFUSED, 0, -1},
    {"1_", SCALAR_INTEGER, TAKEN, 1.0, 1},
    {"1_0_0", SCALAR_INTEGER, TAKEN, 100.0, -1},
    {"190:20:30", SCALAR_INTEGER, TAKEN, 685230.0, -1},
    {"1:5", SCALAR_INTEGER, TAKEN, 65.0, -1},
    {"1:60", SCALAR_STRING, REFUSED, 0, -1},
    {"1:59", SCALAR_INTEGER, TAKEN, 119.0, -1},
    {"01:30", SCALAR_STRING, REFUSED, 0, -1},
    {"-1:30", SCALAR_INTEGER, TAKEN, -90.0, -1},
    {"+1:30", SCALAR_INTEGER, TAKEN, 90.0, -1},
    {"1:2:", SCALAR_STRING, REFUSED, 0, -1},
    {"1::2", SCALAR_STRING, REFUSED, 0, -1},
    {"010:20", SCALAR_STRING, REFUSED, 0, -1},
    {"0:0", SCALAR_STRING, REFUSED, 0, -1},
    {"10:00:00", SCALAR_INTEGER, TAKEN, 36000.0, -1},
    {"1:30.5", SCALAR_FLOAT, TAKEN, 0x1.6a00000000000p+6, -1},
    {"190:20:30.15", SCALAR_FLOAT, TAKEN, 0x1.4e95c4ccccccdp+19, -1},
    {"1:2:3.4", SCALAR_FLOAT, TAKEN, 0x1.d16cccccccccdp+11, -1},
    {"1:02:03.", SCALAR_FLOAT, TAKEN, 3723.0, -1},
    {"1:30.5e+1", SCALAR_STRING, REFUSED, 0, -1},
    {"0:30.5", SCALAR_FLOAT, TAKEN, 0x1.e800000000000p+4, -1},
    {"-1:30.5", SCALAR_FLOAT, TAKEN, -0x1.6a00000000000p+6, -1},
    {"1.", SCALAR_FLOAT, TAKEN, 1.0, 1},
    {".5", SCALAR_FLOAT, TAKEN, 0x1.0000000000000p-1, -1},
    {"-.5", SCALAR_STRING, TAKEN, -0x1.0000000000000p-1, -1},
    {"+.5", SCALAR_STRING, TAKEN, 0x1.0000000000000p-1, -1},
    {"-0.5", SCALAR_FLOAT, TAKEN, -0x1.0000000000000p-1, -1},
    {"+0.5", SCALAR_FLOAT, TAKEN, 0x1.0000000000000p-1, -1},
    {"1e-3", SCALAR_STRING, TAKEN, 0x1.0624dd2f1a9fcp-10, -1},
    {"1E3", SCALAR_STRING, TAKEN, 1000.0, -1},
    {"1.0e-3", SCALAR_FLOAT, TAKEN, 0x1.0624dd2f1a9fcp-10, -1},
    {"1.0e3", SCALAR_STRING, TAKEN, 1000.0, -1},
    {"1.0e+3", SCALAR_FLOAT, TAKEN, 1000.0, -1},
    {"1e5", SCALAR_STRING, TAKEN, 100000.0, -1},
    {"1.e+5", SCALAR_FLOAT, TAKEN, 100000.0, -1},
    {"1.0E-3", SCALAR_FLOAT, TAKEN, 0x1.0624dd2f1a9fcp-10, -1},
    {".inf", SCALAR_FLOAT, TAKEN, INFINITY, -1},
    {"-.inf", SCALAR_FLOAT, TAKEN, -INFINITY, -1},
    {"+.inf", SCALAR_FLOAT, TAKEN, INFINITY, -1},
    {".Inf", SCALAR_FLOAT, TAKEN, INFINITY, -1},
    {".INF", SCALAR_FLOAT, TAKEN, INFINITY, -1},
    {".iNF", SCALAR_STRING, REFUSED, 0, -1},
    {".nan", SCALAR_FLOAT, TAKEN, NAN, -1},
    {".NaN", SCALAR_FLOAT, TAKEN, NAN, -1},
    {".NAN", SCALAR_FLOAT, TAKEN, NAN, -1},
    {"-.nan", SCALAR_STRING, REFUSED, 0, -1},
    {"inf", SCALAR_STRING, TAKEN, INFINITY, -1},
    {"nan", SCALAR_STRING, TAKEN, NAN, -1},
    {"-inf", SCALAR_STRING, TAKEN, -INFINITY, -1},
    {"NaN", SCALAR_STRING, TAKEN, NAN, -1},
    {"Infinity", SCALAR_STRING, TAKEN, INFINITY, -1},
    {"infinity", SCALAR_STRING, TAKEN, INFINITY, -1},
    {".", SCALAR_STRING, REFUSED, 0, -1},
    {"..", SCALAR_STRING, REFUSED, 0, -1},
    {"._", SCALAR_STRING, REFUSED, 0, -1},
    {"1._5", SCALAR_FLOAT, TAKEN, 0x1.8000000000000p+0, -1},
    {"1_0.5", SCALAR_FLOAT, TAKEN, 0x1.5000000000000p+3, -1},
    {"1.5_", SCALAR_FLOAT, TAKEN, 0x1.8000000000000p+0, -1},
    {"0.5", SCALAR_FLOAT, TAKEN, 0x1.0000000000000p-1, -1},
    {"0.0", SCALAR_FLOAT, TAKEN, 0.0, 0},
    {"-0", SCALAR_INTEGER, TAKEN, 0.0, 0},
    {"-0.0", SCALAR_FLOAT, TAKEN, -0.0, 0},
    {"+0.0", SCALAR_FLOAT, TAKEN, 0.0, 0},
    {"1e400", SCALAR_STRING, TAKEN, INFINITY, -1},
    {"1.0e+400", SCALAR_FLOAT, TAKEN, INFINITY, -1},
    {"-1.0e+400", SCALAR_FLOAT, TAKEN, -INFINITY, -1},
    {"1.0e-400", SCALAR_FLOAT, TAKEN, 0.0, 0},
    {"99999999999999999999", SCALAR_INTEGER, TAKEN, 0x1.5af1d78b58c40p+66, -1},
    {"12345678901234567890", SCALAR_INTEGER, TAKEN, 0x1.56a95319d63e1p+63, -1},
    {"0xFFFFFFFFFFFFFFFFFF", SCALAR_INTEGER, TAKEN, 0x1.0000000000000p+72, -1},
    {"1.5.5", SCALAR_STRING, REFUSED, 0, -1},
    {".1_", SCALAR_FLOAT, TAKEN, 0x1.999999999999ap-4, -1},
    {"._1", SCALAR_STRING, TAKEN, 0x1.999999999999ap-4, -1},
    {"1.0e+", SCALAR_STRING, REFUSED, 0, -1},
    {"01.5", SCALAR_FLOAT, TAKEN, 0x1.8000000000000p+0, -1},
    {"0.e+1", SCALAR_FLOAT, TAKEN, 0.0, 0},
    {".e+1", SCALAR_STRING, REFUSED, 0, -1},
    {".5e+1", SCALAR_FLOAT, TAKEN, 5.0, -1},
    {".5e+", SCALAR_STRING, REFUSED, 0, -1},
    {"-.5e+1", SCALAR_STRING, TAKEN, -5.0, -1},
    {"1.5e+1_0", SCALAR_STRING, TAKEN, 15000000000.0, -1},
    {"1e-3_", SCALAR_STRING, REFUSED, 0, -1},
    {"1,000", SCALAR_STRING, REFUSED, 0, -1},
    {"0,5", SCALAR_STRING, REFUSED, 0, -1},
    {"9007199254740993", SCALAR_INTEGER, TAKEN, 0x1.0000000000000p+53, -1},
    {"0.1", SCALAR_FLOAT, TAKEN, 0x1.999999999999ap-4, -1},
    {"0.30000000000000004", SCALAR_FLOAT, TAKEN, 0x1.3333333333334p-2, -1},
    {"1e22", SCALAR_STRING, TAKEN, 0x1.0f0cf064dd592p+73, -1},
    {"1.7976931348623157e+308", SCALAR_FLOAT, TAKEN, 0x1.fffffffffffffp+1023, -1},
    {"5.0e-324", SCALAR_FLOAT, TAKEN, 0x0.0000000000001p-1022, -1},
    {"~", SCALAR_NULL, REFUSED, 0, -1},
    {"null", SCALAR_NULL, REFUSED, 0, -1},
    {"Null", SCALAR_NULL, REFUSED, 0, -1},
    {"NULL", SCALAR_NULL, REFUSED, 0, -1},
    {"nULL", SCALAR_STRING, REFUSED, 0, -1},
    {"None", SCALAR_STRING, REFUSED, 0, -1},
    {"yes", SCALAR_BOOL, TAKEN, 1.0, 1},
    {"Yes", SCALAR_BOOL, TAKEN, 1.0, 1},
    {"YES", SCALAR_BOOL, TAKEN, 1.0, 1},
    {"yEs", SCALAR_STRING, REFUSED, 0, 1},
    {"no", SCALAR_BOOL, TAKEN, 0.0, 0},
    {"No", SCALAR_BOOL, TAKEN, 0.0, 0},
    {"NO", SCALAR_BOOL, TAKEN, 0.0, 0},
    {"nO", SCALAR_STRING, REFUSED, 0, 0},
    {"on", SCALAR_BOOL, TAKEN, 1.0, 1},
    {"On", SCALAR_BOOL, TAKEN, 1.0, 1},
    {"ON", SCALAR_BOOL, TAKEN, 1.0, 1},
    {"oN", SCALAR_STRING, REFUSED, 0, 1},
    {"off", SCALAR_BOOL, TAKEN, 0.0, 0},
    {"Off", SCALAR_BOOL, TAKEN, 0.0, 0},
    {"OFF", SCALAR_BOOL, TAKEN, 0.0, 0},
    {"oFF", SCALAR_STRING, REFUSED, 0, 0},
    {"true", SCALAR_BOOL, TAKEN, 1.0, 1},
    {"True", SCALAR_BOOL, TAKEN, 1.0, 1},
    {"TRUE", SCALAR_BOOL, TAKEN, 1.0, 1},
    {"TruE", SCALAR_STRING, REFUSED, 0, 1},
    {"false", SCALAR_BOOL, TAKEN, 0.0, 0},
    {"False", SCALAR_BOOL, TAKEN, 0.0, 0},
    {"FALSE", SCALAR_BOOL, TAKEN, 0.0, 0},
    {"y", SCALAR_STRING, REFUSED, 0, 1},
    {"n", SCALAR_STRING, REFUSED, 0, 0},
    {"Y", SCALAR_STRING, REFUSED, 0, 1},
    {"N", SCALAR_STRING, REFUSED, 0, 0},
    {"t", SCALAR_STRING, REFUSED, 0, 1},
    {"f", SCALAR_STRING, REFUSED, 0, 0},
    {"T", SCALAR_STRING, REFUSED, 0, 1},
    {"F", SCALAR_STRING, REFUSED, 0, 0},
    {"ya", SCALAR_STRING, REFUSED, 0, -1},
    {"2001-01-01", SCALAR_TIMESTAMP, REFUSED, 0, -1},
    {"2001-1-1", SCALAR_STRING, REFUSED, 0, -1},
    {"2001-01-01T10:00:00Z", SCALAR_TIMESTAMP, REFUSED, 0, -1},
    {"2001-1-1T1:00:00", SCALAR_TIMESTAMP, REFUSED, 0, -1},
    {"2001-01-01t10:00:00.5", SCALAR_TIMESTAMP, REFUSED, 0, -1},
    {"2001-01-01T10:00:00+5", SCALAR_TIMESTAMP, REFUSED, 0, -1},
    {"2001-01-01T10:00:00+05:30", SCALAR_TIMESTAMP, REFUSED, 0, -1},
    {"2001-01-01T10:00", SCALAR_STRING, REFUSED, 0, -1},
    {"20010-01-01", SCALAR_STRING, REFUSED, 0, -1},
    {"2001-01-011", SCALAR_STRING, REFUSED, 0, -1},
    {"linear", SCALAR_STRING, REFUSED, 0, -1},
    {"float16", SCALAR_STRING, REFUSED, 0, -1},
    {"a/b", SCALAR_STRING, REFUSED, 0, -1},
    {"v1.0", SCALAR_STRING, REFUSED, 0, -1},
    {"1.0.0", SCALAR_STRING, REFUSED, 0, -1},
    {"0.5x", SCALAR_STRING, REFUSED, 0, -1},
    {"x0.5", SCALAR_STRING, REFUSED, 0, -1},
    {"-", SCALAR_STRING, REFUSED, 0, -1},
    {"+", SCALAR_STRING, REFUSED, 0, -1},
    {"--", SCALAR_STRING, REFUSED, 0, -1},
    {"+-", SCALAR_STRING, REFUSED, 0, -1},
    {"0x1e+5", SCALAR_STRING, REFUSED, 0, -1},
    {"1e+5", SCALAR_STRING, TAKEN, 100000.0, -1},
    {"1e", SCALAR_STRING, REFUSED, 0, -1},
    {"1e+", SCALAR_STRING, REFUSED, 0, -1},
    {"e5", SCALAR_STRING, REFUSED, 0, -1},
    {"--1", SCALAR_STRING, REFUSED, 0, -1},
    {"+-1", SCALAR_STRING, REFUSED, 0, -1},
    {"1-1", SCALAR_STRING, REFUSED, 0, -1},
    {"model.layers.1.", SCALAR_STRING, REFUSED, 0, -1},
    {"½", SCALAR_STRING, REFUSED, 0, -1},
    {"1٣", SCALAR_STRING, REFUSED, 0, -1},
    {"", SCALAR_NULL, REFUSED, 0, -1},
    {"2001-01-01 10:00:00", SCALAR_TIMESTAMP, REFUSED, 0, -1},
    {"2001-01-01 10:00:00 Z", SCALAR_TIMESTAMP, REFUSED, 0, -1},
    {"2001-01-01  10:00:00 -5", SCALAR_TIMESTAMP, REFUSED, 0, -1},
};

static const struct row quoted[] = {
    {"", SCALAR_STRING, REFUSED, 0, -1},
    {" ", SCALAR_STRING, REFUSED, 0, -1},
    {"0.5", SCALAR_STRING, TAKEN, 0x1.0000000000000p-1, -1},
    {" 0.5 ", SCALAR_STRING, TAKEN, 0x1.0000000000000p-1, -1},
    {"\t1\n", SCALAR_STRING, TAKEN, 1.0, -1},
    {"1e-3", SCALAR_STRING, TAKEN, 0x1.0624dd2f1a9fcp-10, -1},
    {"1_000", SCALAR_STRING, TAKEN, 1000.0, -1},
    {"1__000", SCALAR_STRING, REFUSED, 0, -1},
    {"_1", SCALAR_STRING, REFUSED, 0, -1},
    {"1_", SCALAR_STRING, REFUSED, 0, -1},
    {"0x1F", SCALAR_STRING, REFUSED, 0, -1},
    {"1:30", SCALAR_STRING, REFUSED, 0, -1},
    {"yes", SCALAR_STRING, REFUSED, 0, 1},
    {"Yes", SCALAR_STRING, REFUSED, 0, 1},
    {"YES", SCALAR_STRING, REFUSED, 0, 1},
    {"y", SCALAR_STRING, REFUSED, 0, 1},
    {"n", SCALAR_STRING, REFUSED, 0, 0},
    {"t", SCALAR_STRING, REFUSED, 0, 1},
    {"F", SCALAR_STRING, REFUSED, 0, 0},
    {"on", SCALAR_STRING, REFUSED, 0, 1},
    {"OFF", SCALAR_STRING, REFUSED, 0, 0},
    {"true", SCALAR_STRING, REFUSED, 0, 1},
    {"TRUE", SCALAR_STRING, REFUSED, 0, 1},
    {"1", SCALAR_STRING, TAKEN, 1.0, 1},
    {"0", SCALAR_STRING, TAKEN, 0.0, 0},
    {"01", SCALAR_STRING, TAKEN, 1.0, -1},
    {"1.0", SCALAR_STRING, TAKEN, 1.0, -1},
    {"-1", SCALAR_STRING, TAKEN, -1.0, -1},
    {"+1", SCALAR_STRING, TAKEN, 1.0, -1},
    {"inf", SCALAR_STRING, TAKEN, INFINITY, -1},
    {"-Infinity", SCALAR_STRING, TAKEN, -INFINITY, -1},
    {"nan", SCALAR_STRING, TAKEN, NAN, -1},
    {"1.", SCALAR_STRING, TAKEN, 1.0, -1},
    {".5", SCALAR_STRING, TAKEN, 0x1.0000000000000p-1, -1},
    {".", SCALAR_STRING, REFUSED, 0, -1},
    {"+", SCALAR_STRING, REFUSED, 0, -1},
    {"1e5", SCALAR_STRING, TAKEN, 100000.0, -1},
    {"1E+5", SCALAR_STRING, TAKEN, 100000.0, -1},
    {"e5", SCALAR_STRING, REFUSED, 0, -1},
    {"1 2", SCALAR_STRING, REFUSED, 0, -1},
    {"1,5", SCALAR_STRING, REFUSED, 0, -1},
    {"--1", SCALAR_STRING, REFUSED, 0, -1},
    {"infin", SCALAR_STRING, REFUSED, 0, -1},
    {"null", SCALAR_STRING, REFUSED, 0, -1},
    {"~", SCALAR_STRING, REFUSED, 0, -1},
    {"5.0", SCALAR_STRING, TAKEN, 5.0, -1},
    {"5.5", SCALAR_STRING, TAKEN, 0x1.6000000000000p+2, -1},
    {"9007199254740993", SCALAR_STRING, TAKEN, 0x1.0000000000000p+53, -1},
    {"1e_5", SCALAR_STRING, TAKEN, 100000.0, -1},
    {"1_.5", SCALAR_STRING, TAKEN, 0x1.8000000000000p+0, -1},
    {"1._5", SCALAR_STRING, TAKEN, 0x1.8000000000000p+0, -1},
    {" true ", SCALAR_STRING, REFUSED, 0, -1},
    {"2", SCALAR_STRING, TAKEN, 2.0, -1},
    {" 1_0", SCALAR_STRING, REFUSED, 0, -1},
};
/* clang-format on */

static bool same_number(double a, double b)
{
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

static void check_row(const struct row *row, struct scalar scalar)
{
    double number = 0.0;
    bool flag = false;
    bool taken = scalar_to_number(scalar, row->text, &number);
    bool flag_taken = scalar_to_flag(scalar, row->text, &flag);

    if (scalar.kind != row->kind)
        fail_msg("\"%s\" is read as kind %d, PyYAML: %d", row->text, (int)scalar.kind, (int)row->kind);
    if (taken != (row->taken == TAKEN))
        fail_msg("\"%s\" as a float: %d", row->text, taken);
    if (taken && !same_number(number, row->number))
        fail_msg("\"%s\" is %a, pydantic: %a", row->text, number, row->number);
    if ((flag_taken ? (int)flag : -1) != row->flag)
        fail_msg("\"%s\" as a boolean: %d, pydantic: %d", row->text, flag_taken ? (int)flag : -1, row->flag);
}

static void plain_scalars(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        check_row(&plain[i], scalar_resolve(plain[i].text));
}

static void quoted_scalars(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof quoted / sizeof *quoted; i++)
        check_row(&quoted[i], (struct scalar){SCALAR_STRING, 0.0});
}

/* PyYAML fails on these four (ConstructorError, or ValueError from int()); here they are what no field accepts. */
static void what_pyyaml_cannot_construct(void **state)
{
    double number;

    (void)state;
    assert_int_equal(scalar_resolve("<<").kind, SCALAR_MERGE);
    assert_int_equal(scalar_resolve("=").kind, SCALAR_VALUE);
    assert_false(scalar_to_number(scalar_resolve("<<"), "<<", &number));
    assert_false(scalar_to_number(scalar_resolve("="), "=", &number));
    assert_false(scalar_to_number(scalar_resolve("0x_"), "0x_", &number));
    assert_false(scalar_to_number(scalar_resolve("0b_"), "0b_", &number));
}

static void integer_fields(void **state)
{
    static const struct {
        const char *text;
        bool taken;
        int64_t integer;
    } cases[] = {
        {"0", true, 0},     {"32", true, 32},   {"-1", true, -1},   {"012", true, 10},    {"32.0", true, 32},
        {"1e2", true, 100}, {"yes", true, 1},   {"32.5", false, 0}, {"all", false, 0},    {"~", false, 0},
        {".inf", false, 0}, {".nan", false, 0}, {"1e16", false, 0}, {"-1e300", false, 0}, {"2001-01-01", false, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t integer = 0;
        bool taken = scalar_to_integer(scalar_resolve(cases[i].text), cases[i].text, &integer);
        if (taken != cases[i].taken || (taken && integer != cases[i].integer))
            fail_msg("\"%s\" as an integer: %d, %lld", cases[i].text, taken, (long long)integer);
    }
}

/* A spelling of any length is survived; beyond 399 characters no number is read. */
static void long_spellings(void **state)
{
    char text[2000];
    double number;

    (void)state;
    memset(text, '1', sizeof text);
    text[sizeof text - 1] = '\0';
    assert_int_equal(scalar_resolve(text).kind, SCALAR_STRING);
    assert_false(scalar_to_number(scalar_resolve(text), text, &number));
    text[300] = '\0';
    assert_int_equal(scalar_resolve(text).kind, SCALAR_INTEGER);
    memset(text, '_', 1000);
    text[0] = '1';
    text[1000] = '\0';
    assert_int_equal(scalar_resolve(text).kind, SCALAR_INTEGER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_scalars),
        cmocka_unit_test(quoted_scalars),
        cmocka_unit_test(what_pyyaml_cannot_construct),
        cmocka_unit_test(integer_fields),
        cmocka_unit_test(long_spellings),
    };

    return cmocka_run_group_tests_name("yaml_scalar", tests, NULL, NULL);
}
